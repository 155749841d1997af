//! Accounts.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{integer, malformed, millis, sessions, time, tokens};
use crate::store::{Created, Guest, Login, PasswordHash, Started, User};

const COLUMNS: &str = "id, email, username, password_hash, fields, scope, created, disabled";

pub(super) fn create(
    connection: &Connection,
    user: &User,
    email_key: &str,
    login: Option<&Login>,
) -> rusqlite::Result<Created> {
    let fields = serde_json::to_string(&user.fields).map_err(malformed)?;
    let made = connection
        .prepare_cached(
            "INSERT INTO users (id, email_key, email, username, password_hash, fields, scope, created, disabled)
             VALUES (:id, :email_key, :email, :username, :hash, :fields, :scope, :created, :disabled)
             ON CONFLICT DO NOTHING",
        )?
        .execute(named_params! {
            ":id": user.id,
            ":email_key": email_key,
            ":email": user.email,
            ":username": user.username,
            ":hash": user.password_hash.0,
            ":fields": fields,
            ":scope": user.scope,
            ":created": millis(user.created),
            ":disabled": user.disabled,
        })?;
    if made == 0 {
        let taken = by_email(connection, email_key)?.is_some();
        return Ok(if taken { Created::EmailTaken } else { Created::IdTaken });
    }
    if let Some(login) = login {
        insert_login(connection, login)?;
    }
    Ok(Created::Done)
}

pub(super) fn welcome(connection: &Connection, guest: &Guest) -> rusqlite::Result<User> {
    let fields = serde_json::to_string(&guest.fields).map_err(malformed)?;
    // A control character: the key of nobody's email.
    connection
        .prepare_cached("UPDATE users SET email_key = char(1) || id WHERE email_key = ?1 AND id <> ?2")?
        .execute(params![guest.email_key, guest.id])?;
    connection
        .prepare_cached(
            "INSERT INTO users (id, email_key, email, username, password_hash, fields, scope, created, disabled)
             VALUES (:id, :email_key, :email, :username, :hash, :fields, coalesce(:scope, ''), :created, 0)
             ON CONFLICT (id) DO UPDATE SET email_key = excluded.email_key, email = excluded.email,
                 username = excluded.username, fields = excluded.fields, scope = coalesce(:scope, scope)",
        )?
        .execute(named_params! {
            ":id": guest.id,
            ":email_key": guest.email_key,
            ":email": guest.email,
            ":username": guest.username,
            ":hash": PasswordHash::elsewhere().0,
            ":fields": fields,
            ":scope": guest.scope,
            ":created": millis(guest.at),
        })?;
    by_id(connection, &guest.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

pub(super) fn start_session(
    connection: &Connection,
    login: &Login,
    checked: &PasswordHash,
) -> rusqlite::Result<Started> {
    let unchanged: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM users WHERE id = ?1 AND password_hash = ?2 AND disabled = 0)",
        )?
        .query_row(params![login.session.subject, checked.0], |row| row.get(0))?;
    if !unchanged {
        return Ok(Started::CredentialsChanged);
    }
    insert_login(connection, login)?;
    Ok(Started::Done)
}

fn insert_login(connection: &Connection, login: &Login) -> rusqlite::Result<()> {
    sessions::insert(connection, &login.session)?;
    login.tokens.iter().try_for_each(|token| tokens::insert(connection, token))
}

pub(super) fn by_email(connection: &Connection, email_key: &str) -> rusqlite::Result<Option<User>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM users WHERE email_key = ?1"))?
        .query_row(params![email_key], read)
        .optional()
}

pub(super) fn by_id(connection: &Connection, id: &str) -> rusqlite::Result<Option<User>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM users WHERE id = ?1"))?
        .query_row(params![id], read)
        .optional()
}

pub(super) fn list(connection: &Connection, after: &str, limit: usize) -> rusqlite::Result<Vec<User>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM users WHERE email_key > ?1 ORDER BY email_key LIMIT ?2"
        ))?
        .query_map(params![after, integer(limit)], read)?
        .collect()
}

pub(super) fn hash_near(connection: &Connection, id: &str) -> rusqlite::Result<Option<PasswordHash>> {
    let first_from = |id: &str| {
        connection
            .prepare_cached("SELECT password_hash FROM users WHERE id >= ?1 ORDER BY id LIMIT 1")?
            .query_row(params![id], |row| row.get(0).map(PasswordHash))
            .optional()
    };
    match first_from(id)? {
        Some(hash) => Ok(Some(hash)),
        None => first_from(""),
    }
}

pub(super) fn set_disabled(connection: &Connection, id: &str, disabled: bool) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached("UPDATE users SET disabled = ?2 WHERE id = ?1")?
        .execute(params![id, disabled])?;
    Ok(changed == 1)
}

pub(super) fn delete(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    let forget = |sql| connection.prepare_cached(sql)?.execute(params![id]);
    if forget("DELETE FROM users WHERE id = ?1")? == 0 {
        return Ok(false);
    }
    forget("DELETE FROM tokens WHERE subject = ?1")?;
    forget("DELETE FROM sessions WHERE subject = ?1")?;
    Ok(true)
}

pub(super) fn set_password(
    connection: &Connection,
    id: &str,
    old: &PasswordHash,
    new: &PasswordHash,
) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached("UPDATE users SET password_hash = ?3 WHERE id = ?1 AND password_hash = ?2")?
        .execute(params![id, old.0, new.0])?;
    Ok(changed == 1)
}

/// Whether the account may sign in and refresh; `None` where there is none.
pub(super) fn enabled(connection: &Connection, id: &str) -> rusqlite::Result<Option<bool>> {
    connection
        .prepare_cached("SELECT disabled = 0 FROM users WHERE id = ?1")?
        .query_row(params![id], |row| row.get(0))
        .optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get("id")?,
        email: row.get("email")?,
        username: row.get("username")?,
        password_hash: PasswordHash(row.get("password_hash")?),
        fields: serde_json::from_str(row.get_ref("fields")?.as_str()?).map_err(malformed)?,
        scope: row.get("scope")?,
        created: time(row, "created")?,
        disabled: row.get("disabled")?,
    })
}
