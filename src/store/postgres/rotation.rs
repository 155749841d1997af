//! The exchange of a refresh token: whoever comes first retires it.
//!
//! The ordinary case is one statement, of many exchanges where many come at once (`exchanges.rs`), and so one round trip and one transaction: a compare-and-set on
//! `retired_at IS NULL` that waits for whoever holds the row, looks again, and inserts the new tokens only if it won.
//! Whoever did not win is answered by the second way, which holds the row while it looks at what became of it.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::types::ToSql;

use super::link::is_about_data;
use super::values::{Failure, Result, Text, malformed, maybe_text, maybe_time, millis, text};
use super::{sessions, tokens};
use crate::clock::UnixTime;
use crate::store::{Rotated, Rotation, Successor, Token};

/// `$1` to `$9` are the new tokens, `$10` the presented one, `$11` its account, `$12` now, `$13` to `$15` the
/// successor. A disabled account has its sessions revoked too; looking at it here closes the moment between the two.
const EXCHANGE: &str = "
    WITH retired AS (
        UPDATE tokens SET used_at = coalesce(used_at, $12), retired_at = $12, successor_id = $13,
            successor_issued_at = $14, successor_expires_at = $15
        WHERE id = $10 AND retired_at IS NULL
            AND EXISTS (SELECT 1 FROM users WHERE users.id = $11 AND NOT disabled)
        RETURNING 1)
    INSERT INTO tokens (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address)
    SELECT new.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                             $7::bigint[], $8::text[], $9::text[]) AS new
    WHERE EXISTS (SELECT 1 FROM retired)";

/// The same for any number: `$1` to `$9` are the new tokens, `$10` for each of them the presented one that it takes
/// the place of; `$11` to `$16` are the presented ones, their accounts, now, and the successors. Gives the ids of those
/// that were exchanged. A row that somebody else holds is passed over, not waited for: one exchange must not hold up
/// the others, nor two statements each other.
const EXCHANGE_ALL: &str = "
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest($11::text[], $12::text[], $13::bigint[], $14::text[], $15::bigint[], $16::bigint[])
            AS asked (id, account, now, successor, issued_at, expires_at)),
    held AS MATERIALIZED (
        SELECT tokens.id FROM asked JOIN tokens ON tokens.id = asked.id
        WHERE tokens.retired_at IS NULL
            AND EXISTS (SELECT 1 FROM users WHERE users.id = asked.account AND NOT users.disabled)
        FOR UPDATE OF tokens SKIP LOCKED),
    retired AS (
        UPDATE tokens SET used_at = coalesce(tokens.used_at, asked.now), retired_at = asked.now,
            successor_id = asked.successor, successor_issued_at = asked.issued_at,
            successor_expires_at = asked.expires_at
        FROM held JOIN asked ON asked.id = held.id
        WHERE tokens.id = held.id AND tokens.retired_at IS NULL
        RETURNING tokens.id),
    added AS (
        INSERT INTO tokens (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address)
        SELECT new.id, new.session, new.subject, new.type, new.key_id, new.issued_at, new.expires_at, new.user_agent,
               new.address
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                    $8::text[], $9::text[], $10::text[])
            AS new (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address, presented)
        WHERE new.presented IN (SELECT id FROM retired))
    SELECT id FROM retired";

/// What the store knows of the presented token, whose row is held.
struct Known {
    retired_at: Option<UnixTime>,
    successor: Option<Successor>,
}

pub(super) async fn rotate(client: &mut Client, rotation: &Rotation) -> Result<Rotated> {
    if let Some(successor) = &rotation.successor
        && exchanged(client, rotation, successor).await?
    {
        return Ok(Rotated::Done);
    }
    let transaction = client.transaction().await?;
    let rotated = look_closer(&transaction, rotation).await?;
    if matches!(rotated, Rotated::Done | Rotated::Repeated(_)) {
        transaction.commit().await?;
    }
    Ok(rotated)
}

/// Whether the presented token was good, and now is exchanged.
async fn exchanged(client: &Client, rotation: &Rotation, successor: &Token) -> Result<bool> {
    let statement = client.prepare_cached(EXCHANGE).await?;
    let new = tokens::Columns::of(&[&rotation.access, successor]);
    let (presented, subject) = (Text(&rotation.presented.id), Text(&rotation.presented.subject));
    let (now, successor_id) = (millis(rotation.now), Text(&successor.id));
    let (issued_at, expires_at) = (millis(successor.issued_at), millis(successor.expires_at));
    let mut parameters: Vec<&(dyn ToSql + Sync)> = new.parameters().to_vec();
    parameters.extend_from_slice(&[&presented, &subject, &now, &successor_id, &issued_at, &expires_at]);
    Ok(client.execute(&statement, &parameters).await? > 0)
}

/// Which of these were good, and now are exchanged; nothing became of the others. Not even of any, if one has something
/// that the server does not take.
pub(super) async fn exchange_all(client: &Client, rotations: &[Rotation]) -> Result<Vec<bool>> {
    let mut ordinary: BTreeMap<&str, (&Rotation, &Token)> = BTreeMap::new();
    for rotation in rotations {
        if let Some(successor) = &rotation.successor {
            // Of two that present one token the first one wins, as it would alone.
            ordinary.entry(&rotation.presented.id).or_insert((rotation, successor));
        }
    }
    let all: Vec<_> = ordinary.values().collect();
    let tokens: Vec<&Token> = all.iter().flat_map(|(one, successor)| [&one.access, *successor]).collect();
    let new = tokens::Columns::of(&tokens);
    let of_new: Vec<_> = all.iter().flat_map(|(one, _)| [Text(&one.presented.id); 2]).collect();
    let presented: Vec<_> = all.iter().map(|(one, _)| Text(&one.presented.id)).collect();
    let accounts: Vec<_> = all.iter().map(|(one, _)| Text(&one.presented.subject)).collect();
    let now: Vec<_> = all.iter().map(|(one, _)| millis(one.now)).collect();
    let successors: Vec<_> = all.iter().map(|(_, successor)| Text(&successor.id)).collect();
    let issued: Vec<_> = all.iter().map(|(_, successor)| millis(successor.issued_at)).collect();
    let expires: Vec<_> = all.iter().map(|(_, successor)| millis(successor.expires_at)).collect();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = new.parameters().to_vec();
    parameters.extend_from_slice(&[&of_new, &presented, &accounts, &now, &successors, &issued, &expires]);
    let statement = client.prepare_cached(EXCHANGE_ALL).await?;
    let rows = match client.query(&statement, &parameters).await.map_err(Failure::Server) {
        Ok(rows) => rows,
        // Each one alone, then, so that nobody is refused for another's sake.
        Err(failure) if is_about_data(&failure) => return Ok(vec![false; rotations.len()]),
        Err(failure) => return Err(failure),
    };
    let exchanged: BTreeSet<Box<str>> = rows.iter().map(|row| text(row, "id")).collect::<Result<_>>()?;
    let done = |rotation: &Rotation| {
        let id = &*rotation.presented.id;
        let is_first = ordinary.get(id).is_some_and(|(first, _)| std::ptr::eq(*first, rotation));
        is_first && exchanged.contains(id)
    };
    Ok(rotations.iter().map(done).collect())
}

/// What became of a token that is not simply good: unknown, retired, of a disabled account, or not to be rotated.
async fn look_closer(transaction: &Transaction<'_>, rotation: &Rotation) -> Result<Rotated> {
    // Held, so that a session adopted below is there for whoever disables the account and lists its sessions.
    let account =
        transaction.prepare_cached("SELECT 1 FROM users WHERE id = $1 AND NOT disabled FOR SHARE").await?;
    if transaction.query_opt(&account, &[&Text(&rotation.presented.subject)]).await?.is_none() {
        return Ok(Rotated::NoAccount);
    }
    let id = &rotation.presented.id;
    let known = match (held(transaction, id).await?, &rotation.adopt) {
        (Some(known), _) => known,
        (None, None) => return Ok(Rotated::Unknown),
        (None, Some(session)) => {
            sessions::insert(transaction, session).await?;
            adopt(transaction, &rotation.presented).await?;
            held(transaction, id).await?.ok_or_else(|| malformed("a token went while it was taken in"))?
        }
    };
    let done = match known {
        Known { retired_at: None, .. } => {
            retire(transaction, rotation).await?;
            Rotated::Done
        }
        Known { retired_at: Some(at), successor: Some(successor) }
            if rotation.now.since(at) < rotation.grace && !used(transaction, &successor.id).await? =>
        {
            Rotated::Repeated(successor)
        }
        _ => return Ok(Rotated::Reused),
    };
    tokens::insert(transaction, std::slice::from_ref(&rotation.access)).await?;
    Ok(done)
}

/// The token's row, held to the end of the transaction.
async fn held(transaction: &Transaction<'_>, id: &str) -> Result<Option<Known>> {
    let statement = transaction
        .prepare_cached(
            "SELECT retired_at, successor_id, successor_issued_at, successor_expires_at FROM tokens
             WHERE id = $1 FOR UPDATE",
        )
        .await?;
    let Some(row) = transaction.query_opt(&statement, &[&Text(id)]).await? else { return Ok(None) };
    let successor = match (
        maybe_text(&row, "successor_id")?,
        maybe_time(&row, "successor_issued_at")?,
        maybe_time(&row, "successor_expires_at")?,
    ) {
        (Some(id), Some(issued_at), Some(expires_at)) => Some(Successor { id, issued_at, expires_at }),
        _ => None,
    };
    Ok(Some(Known { retired_at: maybe_time(&row, "retired_at")?, successor }))
}

/// Whether a token was exchanged already.
async fn used(transaction: &Transaction<'_>, id: &str) -> Result<bool> {
    let statement =
        transaction.prepare_cached("SELECT 1 FROM tokens WHERE id = $1 AND used_at IS NOT NULL").await?;
    Ok(transaction.query_opt(&statement, &[&Text(id)]).await?.is_some())
}

/// Takes in a token that the store did not know; another gateway may be doing the same.
async fn adopt(transaction: &Transaction<'_>, token: &Token) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "INSERT INTO tokens (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                                  $7::bigint[], $8::text[], $9::text[])
             ON CONFLICT (id) DO NOTHING",
        )
        .await?;
    transaction.execute(&statement, &tokens::Columns::of(&[token]).parameters()).await?;
    Ok(())
}

async fn retire(transaction: &Transaction<'_>, rotation: &Rotation) -> Result<()> {
    let (id, now) = (Text(&rotation.presented.id), millis(rotation.now));
    let Some(successor) = &rotation.successor else {
        let used = "UPDATE tokens SET used_at = $2 WHERE id = $1 AND used_at IS NULL";
        let statement = transaction.prepare_cached(used).await?;
        transaction.execute(&statement, &[&id, &now]).await?;
        return Ok(());
    };
    let statement = transaction
        .prepare_cached(
            "UPDATE tokens SET used_at = coalesce(used_at, $2), retired_at = $2, successor_id = $3,
                successor_issued_at = $4, successor_expires_at = $5 WHERE id = $1",
        )
        .await?;
    let (issued_at, expires_at) = (millis(successor.issued_at), millis(successor.expires_at));
    transaction.execute(&statement, &[&id, &now, &Text(&successor.id), &issued_at, &expires_at]).await?;
    tokens::insert(transaction, std::slice::from_ref(successor)).await
}
