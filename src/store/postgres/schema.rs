//! The tables, and how a store of an older version becomes one of this version. Forward only.
//!
//! Times are milliseconds since the epoch. `meta` says which version of the schema the database has; each step below
//! takes it one version further, all of them in one transaction under an advisory lock, so that gateways that start
//! at once come one after the other, and a crash in between leaves the old schema.

use deadpool_postgres::{Client, Transaction};

use super::values::{Failure, Result};

/// "portcull" in ASCII: whoever else takes advisory locks in this database takes another.
const LOCK: i64 = 0x706f_7274_6375_6c6c;
/// `unnest` of several arrays, `ON CONFLICT` and identity columns are older; what is older still gets no fixes.
const SERVER_VERSION_LEAST: i32 = 120_000;

/// Step `n` makes version `n + 1`. A released step is never changed: a new one is added below it.
///
/// Texts that are looked up by are compared byte by byte (`COLLATE "C"`): their order means nothing, and the rules of
/// a language cost time and can change below an index. A quarter of a page of tokens is left free, so that retiring
/// one touches no index.
const STEPS: &[&str] = &[
    r#"
    CREATE TABLE users (
        id            text COLLATE "C" PRIMARY KEY,
        email_key     text COLLATE "C" NOT NULL UNIQUE,
        email         text NOT NULL,
        username      text NOT NULL,
        password_hash text NOT NULL,
        fields        text NOT NULL,           -- a JSON object
        scope         text NOT NULL DEFAULT '',
        created       bigint NOT NULL,
        disabled      boolean NOT NULL DEFAULT false
    );

    -- No foreign key to users: with a delegated login the subject is somebody else's account.
    CREATE TABLE sessions (
        number     bigint GENERATED ALWAYS AS IDENTITY,
        id         text COLLATE "C" PRIMARY KEY,
        subject    text COLLATE "C" NOT NULL,
        created    bigint NOT NULL,
        expires    bigint NOT NULL,
        user_agent text NOT NULL,
        address    text NOT NULL,
        revoked_at bigint,
        revoked_by text
    );
    CREATE INDEX sessions_of ON sessions (subject, number);
    CREATE INDEX sessions_expire ON sessions (expires);

    CREATE TABLE tokens (
        number       bigint GENERATED ALWAYS AS IDENTITY,
        id           text COLLATE "C" PRIMARY KEY,  -- jti
        session      text COLLATE "C" NOT NULL,
        subject      text COLLATE "C" NOT NULL,
        type         text COLLATE "C" NOT NULL,     -- access, refresh
        key_id       text,
        issued_at    bigint NOT NULL,
        expires_at   bigint NOT NULL,
        user_agent   text NOT NULL,
        address      text NOT NULL,
        revoked_at   bigint,
        revoked_by   text,
        used_at      bigint,                   -- a refresh token: first exchanged
        retired_at   bigint,                   -- a refresh token: replaced by its successor
        successor_id text,
        successor_issued_at  bigint,
        successor_expires_at bigint
    ) WITH (fillfactor = 75);
    CREATE INDEX tokens_of ON tokens (subject, number);
    CREATE INDEX tokens_in ON tokens (session);
    CREATE INDEX tokens_expire ON tokens (expires_at);

    -- Each gateway that ever joined, and how far the trail was fed from its log.
    CREATE TABLE gateways (
        number         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id             text COLLATE "C" NOT NULL UNIQUE,
        trail_position bigint NOT NULL DEFAULT 0
    );

    CREATE TABLE trail (
        gateway       bigint NOT NULL REFERENCES gateways (number),
        sequence      bigint NOT NULL,
        kind          text COLLATE "C" NOT NULL,
        issuer        text COLLATE "C" NOT NULL,
        value         text COLLATE "C" NOT NULL,
        lift          boolean NOT NULL,
        issued_before bigint,
        expires_at    bigint NOT NULL,
        reason        text NOT NULL,
        actor         text NOT NULL,
        address       text NOT NULL,
        at            bigint NOT NULL,
        PRIMARY KEY (gateway, sequence)
    );
    CREATE INDEX trail_of ON trail (value, kind, issuer, sequence);
"#,
    r#"
    -- What the gateways share and only they can read: signing keys, sealed (docs/keys.md). `meta` has the version of
    -- the whole, each row that of its last change.
    CREATE TABLE safe (
        id      text COLLATE "C" PRIMARY KEY,
        sealed  bytea NOT NULL,
        version bigint NOT NULL
    );
    INSERT INTO meta VALUES ('safe', '0');
"#,
    r#"
    -- What the gateways know in common for a short while: how often a sign-in failed, and what was used once.
    -- The keys are digests; a row counts for nothing from `until` on.
    CREATE TABLE brief (
        key   bytea PRIMARY KEY,
        until bigint NOT NULL,
        count bigint NOT NULL
    );
    CREATE INDEX brief_until ON brief (until);
"#,
];

/// Brings the schema up to date.
pub(super) async fn migrate(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
    look_at_the_server(&transaction).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let version = version(&transaction).await?;
    let known = STEPS.len();
    let steps = STEPS.get(version..).ok_or_else(|| {
        Failure::Unusable(format!(
            "its schema has version {version}, written by a newer portcullis; this one knows version {known}"
        ))
    })?;
    if !steps.is_empty() {
        for step in steps {
            transaction.batch_execute(step).await?;
        }
        let set =
            "INSERT INTO meta VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        transaction.execute(set, &[&known.to_string()]).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Whether this server and database can hold a store at all.
async fn look_at_the_server(transaction: &Transaction<'_>) -> Result<()> {
    let row = transaction
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
                    current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on'",
            &[],
        )
        .await?;
    let (version, encoding): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    if version < SERVER_VERSION_LEAST {
        let words = format!("the server is PostgreSQL {}, and 12 is needed at least", version / 10_000);
        return Err(Failure::Unusable(words));
    }
    if encoding != "UTF8" {
        let words = format!("the database has the encoding {encoding}; make one with ENCODING 'UTF8'");
        return Err(Failure::Unusable(words));
    }
    if row.try_get(2)? {
        let words = "the server takes no writes (a standby?); name the primary, or all of them and \
                     target_session_attrs=read-write";
        return Err(Failure::Unusable(words.to_owned()));
    }
    if !row.try_get::<_, bool>(3)? {
        tracing::warn!(
            "the PostgreSQL server runs with fsync off: a crash of it loses what was acknowledged"
        );
    }
    Ok(())
}

/// The version of the schema; 0 for an empty one, whose `meta` this makes.
async fn version(transaction: &Transaction<'_>) -> Result<usize> {
    let another = || Failure::Unusable("the schema portcullis is of another program".to_owned());
    let row = transaction
        .query_one(
            "SELECT to_regnamespace('portcullis') IS NOT NULL, to_regclass('portcullis.meta') IS NOT NULL,
                    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('portcullis'))",
            &[],
        )
        .await?;
    let (schema, meta, relations): (bool, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if !meta {
        if relations {
            return Err(another());
        }
        if !schema {
            transaction.batch_execute("CREATE SCHEMA portcullis").await?;
        }
        transaction
            .batch_execute(r#"CREATE TABLE meta (name text COLLATE "C" PRIMARY KEY, value text NOT NULL)"#)
            .await?;
        return Ok(0);
    }
    let row = transaction.query_opt("SELECT value FROM meta WHERE name = 'schema'", &[]).await?;
    row.and_then(|row| row.try_get::<_, String>(0).ok()?.parse().ok()).ok_or_else(another)
}
