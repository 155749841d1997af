//! Accounts.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::Row;

use super::values::{Result, Text, integer, malformed, millis, text, time};
use super::{sessions, tokens};
use crate::store::{Created, Guest, Login, PasswordHash, Started, User};

const BY_EMAIL: &str =
    "SELECT id, email, username, password_hash, fields, scope, created, disabled FROM users
    WHERE email_key = $1";
const BY_ID: &str = "SELECT id, email, username, password_hash, fields, scope, created, disabled FROM users
    WHERE id = $1";

const LIST: &str = "SELECT id, email, username, password_hash, fields, scope, created, disabled FROM users
    WHERE email_key > $1 ORDER BY email_key LIMIT $2";

pub(super) async fn create(
    client: &mut Client,
    (user, email_key, login): &(User, Box<str>, Option<Login>),
) -> Result<Created> {
    let fields = serde_json::to_string(&user.fields).map_err(malformed)?;
    let transaction = client.transaction().await?;
    let insert = transaction
        .prepare_cached(
            "INSERT INTO users (id, email_key, email, username, password_hash, fields, scope, created, disabled)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        )
        .await?;
    let made = transaction
        .execute(
            &insert,
            &[
                &Text(&user.id),
                &Text(email_key),
                &Text(&user.email),
                &Text(&user.username),
                &Text(&user.password_hash.0),
                &Text(&fields),
                &Text(&user.scope),
                &millis(user.created),
                &user.disabled,
            ],
        )
        .await?;
    if made == 0 {
        let taken = by_email(&transaction, email_key).await?.is_some();
        return Ok(if taken { Created::EmailTaken } else { Created::IdTaken });
    }
    if let Some(login) = login {
        insert_login(&transaction, login).await?;
    }
    transaction.commit().await?;
    Ok(Created::Done)
}

pub(super) async fn welcome(client: &mut Client, guest: &Guest) -> Result<User> {
    let fields = serde_json::to_string(&guest.fields).map_err(malformed)?;
    let transaction = client.transaction().await?;
    // A control character: the key of nobody's email.
    let free = transaction
        .prepare_cached("UPDATE users SET email_key = chr(1) || id WHERE email_key = $1 AND id <> $2")
        .await?;
    transaction.execute(&free, &[&Text(&guest.email_key), &Text(&guest.id)]).await?;
    let keep = transaction
        .prepare_cached(
            "INSERT INTO users (id, email_key, email, username, password_hash, fields, scope, created, disabled)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false)
             ON CONFLICT (id) DO UPDATE SET email_key = excluded.email_key, email = excluded.email,
                 username = excluded.username, fields = excluded.fields,
                 scope = CASE WHEN $9 THEN excluded.scope ELSE users.scope END",
        )
        .await?;
    let scope = guest.scope.as_deref().unwrap_or_default();
    transaction
        .execute(
            &keep,
            &[
                &Text(&guest.id),
                &Text(&guest.email_key),
                &Text(&guest.email),
                &Text(&guest.username),
                &Text(&PasswordHash::elsewhere().0),
                &Text(&fields),
                &Text(scope),
                &millis(guest.at),
                &guest.scope.is_some(),
            ],
        )
        .await?;
    let select = transaction.prepare_cached(BY_ID).await?;
    let user = read(&transaction.query_one(&select, &[&Text(&guest.id)]).await?)?;
    transaction.commit().await?;
    Ok(user)
}

/// The account is locked against changes: a password change or a disabling that runs at the same time either comes
/// first, and is seen here, or waits, and finds the new session when it lists those to revoke.
pub(super) async fn start_session(
    client: &mut Client,
    (login, checked): &(Login, PasswordHash),
) -> Result<Started> {
    let transaction = client.transaction().await?;
    let unchanged = transaction
        .prepare_cached("SELECT 1 FROM users WHERE id = $1 AND password_hash = $2 AND NOT disabled FOR SHARE")
        .await?;
    let account = [&Text(&login.session.subject) as _, &Text(&checked.0) as _];
    if transaction.query_opt(&unchanged, &account).await?.is_none() {
        return Ok(Started::CredentialsChanged);
    }
    insert_login(&transaction, login).await?;
    transaction.commit().await?;
    Ok(Started::Done)
}

async fn insert_login(client: &impl GenericClient, login: &Login) -> Result<()> {
    sessions::insert(client, &login.session).await?;
    tokens::insert(client, &login.tokens).await
}

pub(super) async fn by_email(client: &impl GenericClient, email_key: &str) -> Result<Option<User>> {
    let statement = client.prepare_cached(BY_EMAIL).await?;
    client.query_opt(&statement, &[&Text(email_key)]).await?.as_ref().map(read).transpose()
}

pub(super) async fn by_id(client: &Client, id: &str) -> Result<Option<User>> {
    let statement = client.prepare_cached(BY_ID).await?;
    client.query_opt(&statement, &[&Text(id)]).await?.as_ref().map(read).transpose()
}

pub(super) async fn set_password(
    client: &Client,
    (id, old, new): &(Box<str>, PasswordHash, PasswordHash),
) -> Result<bool> {
    let statement = client
        .prepare_cached("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2")
        .await?;
    Ok(client.execute(&statement, &[&Text(id), &Text(&old.0), &Text(&new.0)]).await? == 1)
}

pub(super) async fn list(client: &Client, (after, limit): &(Box<str>, usize)) -> Result<Vec<User>> {
    let statement = client.prepare_cached(LIST).await?;
    client.query(&statement, &[&Text(after), &integer(*limit)]).await?.iter().map(read).collect()
}

pub(super) async fn hash_near(client: &Client, id: &str) -> Result<Option<PasswordHash>> {
    let statement =
        client.prepare_cached("SELECT password_hash FROM users WHERE id >= $1 ORDER BY id LIMIT 1").await?;
    for from in [id, ""] {
        if let Some(row) = client.query_opt(&statement, &[&Text(from)]).await? {
            return Ok(Some(PasswordHash(text(&row, "password_hash")?)));
        }
    }
    Ok(None)
}

pub(super) async fn set_disabled(client: &Client, (id, disabled): &(Box<str>, bool)) -> Result<bool> {
    let statement = client.prepare_cached("UPDATE users SET disabled = $2 WHERE id = $1").await?;
    Ok(client.execute(&statement, &[&Text(id), disabled]).await? == 1)
}

/// A refresh that runs at this moment may leave its new tokens behind: they are of a revoked subject, and go when they
/// expire.
pub(super) async fn delete(client: &mut Client, id: &str) -> Result<bool> {
    let transaction = client.transaction().await?;
    let user = transaction.prepare_cached("DELETE FROM users WHERE id = $1").await?;
    if transaction.execute(&user, &[&Text(id)]).await? == 0 {
        return Ok(false);
    }
    for rest in ["DELETE FROM tokens WHERE subject = $1", "DELETE FROM sessions WHERE subject = $1"] {
        let statement = transaction.prepare_cached(rest).await?;
        transaction.execute(&statement, &[&Text(id)]).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

fn read(row: &Row) -> Result<User> {
    Ok(User {
        id: text(row, "id")?,
        email: text(row, "email")?,
        username: text(row, "username")?,
        password_hash: PasswordHash(text(row, "password_hash")?),
        fields: serde_json::from_str(&text(row, "fields")?).map_err(malformed)?,
        scope: text(row, "scope")?,
        created: time(row, "created")?,
        disabled: row.try_get("disabled")?,
    })
}
