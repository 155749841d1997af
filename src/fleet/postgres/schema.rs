//! The tables of the shared log in PostgreSQL, in a schema of their own for each namespace.
//!
//! | table | what | partitions |
//! | --- | --- | --- |
//! | `head` | one row: epoch, newest position, where the live part ends | |
//! | `live` | a batch in each row, with its payload | by segments of 64 MiB; the newest 16 are kept |
//! | `state` | of a batch, what the state holds of its entries that can be forgotten on the same day | by that day |
//! | `books` | of each gateway, the last sequence that was appended | |
//! | `members` | how each gateway does | |
//!
//! An append is one call of a function and one transaction. It holds an advisory lock to its end, which the server gives
//! back after the commit has become visible: so positions become visible in their order, and whoever has read up to one
//! never finds an older one later. A position is the time in milliseconds, or one more than the newest, like the ids of a
//! Redis stream: after a fall back to an older copy a new batch does not get the position of a lost one.

use deadpool_postgres::{Client, Transaction};

use crate::store::server::{Failure, malformed};

/// `unnest` of several arrays and partitioned tables with primary keys are older; what is older still gets no fixes.
const SERVER_VERSION_LEAST: i32 = 120_000;
/// Segments of the live part that are kept: a gibibyte.
pub(super) const SEGMENTS_KEPT: i32 = 16;

/// Step `n` makes version `n + 1`. A released step is never changed: a new one is added below it.
const STEPS: &[&str] = &[r#"
    CREATE TABLE {s}.head (
        one      boolean PRIMARY KEY DEFAULT true CHECK (one),
        epoch    bigint NOT NULL,
        identity text NOT NULL,             -- of the server: system identifier and timeline
        newest   bigint NOT NULL,
        trimmed  bigint NOT NULL,           -- the newest position that is no longer in the live part
        segment  integer NOT NULL,
        filled   bigint NOT NULL            -- bytes of payload in that segment
    );

    CREATE TABLE {s}.live (
        segment  integer NOT NULL,
        position bigint NOT NULL,
        at       bigint NOT NULL,
        payload  bytea NOT NULL,
        PRIMARY KEY (position, segment)
    ) PARTITION BY LIST (segment);

    CREATE TABLE {s}.state (
        forgotten integer NOT NULL,         -- the day, counted from 1970, at whose end it can go
        position  bigint NOT NULL,
        lifting   boolean NOT NULL,
        entries   bytea NOT NULL,
        PRIMARY KEY (position, forgotten, lifting)
    ) PARTITION BY LIST (forgotten);
    -- Digests do not compress.
    ALTER TABLE {s}.state ALTER COLUMN entries SET STORAGE EXTERNAL;

    CREATE TABLE {s}.books (
        gateway  bytea PRIMARY KEY,
        sequence bigint NOT NULL
    );

    CREATE TABLE {s}.members (
        gateway bytea PRIMARY KEY,
        at      timestamptz NOT NULL,
        member  text NOT NULL
    );

    -- Another server, or a timeline after a promotion or a restore, may not have all that its predecessor acknowledged.
    CREATE FUNCTION {s}.identity() RETURNS text LANGUAGE sql STABLE AS $body$
        SELECT (SELECT system_identifier FROM pg_control_system())::text || '-' ||
               left(pg_walfile_name(pg_current_wal_lsn()), 8)
    $body$;

    CREATE FUNCTION {s}.millis() RETURNS bigint LANGUAGE sql VOLATILE AS $body$
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    $body$;

    -- Attached, not made as a partition: that way it locks out nobody who reads.
    CREATE FUNCTION {s}.partition(parent text, number integer) RETURNS void LANGUAGE plpgsql AS $body$
    DECLARE
        name text := parent || '_' || number;
    BEGIN
        IF to_regclass(format('%s.%I', '{s}', name)) IS NULL THEN
            EXECUTE format('CREATE TABLE {s}.%I (LIKE {s}.%I INCLUDING ALL)', name, parent);
            EXECUTE format('ALTER TABLE {s}.%I ATTACH PARTITION {s}.%I FOR VALUES IN (%s)', parent, name, number);
        END IF;
    END
    $body$;

    -- outcome: 0 done, or done before; 1 another epoch; 2 out of step; 3 too late.
    CREATE FUNCTION {s}.append(
        wanted bigint, who bytea, stamp integer, first bigint, second bigint, batch bytea,
        days integer[], lifts boolean[], entries bytea[],
        OUT outcome integer, OUT place bigint, OUT own bigint
    ) LANGUAGE plpgsql AS $body$
    DECLARE
        h {s}.head%ROWTYPE;
        now_ms bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock({lock});
        SELECT * INTO STRICT h FROM {s}.head;
        IF h.epoch <> wanted OR h.identity <> {s}.identity() THEN
            outcome := 1;
            RETURN;
        END IF;
        now_ms := {s}.millis();
        IF stamp = 0 THEN
            SELECT sequence INTO own FROM {s}.books WHERE gateway = who;
            IF own = second THEN
                outcome := 0;
                place := h.newest;
                RETURN;
            ELSIF coalesce(own, 0) <> first THEN
                outcome := 2;
                RETURN;
            END IF;
        ELSIF stamp = 1 AND now_ms > first THEN
            outcome := 3;
            RETURN;
        END IF;
        outcome := 0;
        place := h.newest;
        IF octet_length(batch) > 0 THEN
            place := greatest(h.newest + 1, now_ms);
            IF h.filled >= {segment_bytes} THEN
                h.segment := h.segment + 1;
                h.filled := 0;
            END IF;
            PERFORM {s}.partition('live', h.segment);
            INSERT INTO {s}.live (segment, position, at, payload) VALUES (h.segment, place, now_ms, batch);
            FOR i IN 1 .. coalesce(cardinality(days), 0) LOOP
                PERFORM {s}.partition('state', days[i]);
                INSERT INTO {s}.state (forgotten, position, lifting, entries)
                    VALUES (days[i], place, lifts[i], entries[i]);
            END LOOP;
            UPDATE {s}.head SET newest = place, segment = h.segment,
                filled = h.filled + octet_length(batch);
            PERFORM pg_notify('{channel}', '');
        END IF;
        IF stamp = 0 THEN
            INSERT INTO {s}.books (gateway, sequence) VALUES (who, second)
                ON CONFLICT (gateway) DO UPDATE SET sequence = excluded.sequence;
        END IF;
    END
    $body$;
"#];

/// What stands in for the names of one namespace.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The schema, without quotes.
    pub(super) schema: String,
    /// Of notifications.
    pub(super) channel: String,
    /// Held by whoever appends.
    pub(super) lock: i64,
    /// The size of a segment of the live part.
    pub(super) segment_bytes: u64,
}

impl Names {
    /// A statement with the names in place.
    pub(super) fn sql(&self, template: &str) -> String {
        template
            .replace("{s}", &format!("\"{}\"", self.schema))
            .replace("{lock}", &self.lock.to_string())
            .replace("{channel}", &self.channel)
            .replace("{segment_bytes}", &self.segment_bytes.to_string())
    }
}

/// Brings the schema up to date and holds the lock of whoever appends, so that gateways that start at once come one
/// after the other.
pub(super) async fn migrate(transaction: &Transaction<'_>, names: &Names) -> Result<(), Failure> {
    look_at_the_server(transaction).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&names.lock]).await?;
    let version = version(transaction, names).await?;
    let known = STEPS.len();
    let steps = STEPS.get(version..).ok_or_else(|| {
        Failure::Unusable(format!(
            "the shared log has version {version}, written by a newer portcullis; this one knows version {known}"
        ))
    })?;
    if steps.is_empty() {
        return Ok(());
    }
    for step in steps {
        transaction.batch_execute(&names.sql(step)).await?;
    }
    let set = names.sql(
        "INSERT INTO {s}.meta VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    );
    transaction.execute(&set, &[&known.to_string()]).await?;
    Ok(())
}

async fn look_at_the_server(transaction: &Transaction<'_>) -> Result<(), Failure> {
    let row = transaction
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('transaction_read_only') = 'on'",
            &[],
        )
        .await?;
    let version: i32 = row.try_get(0)?;
    if version < SERVER_VERSION_LEAST {
        let words = format!("the server is PostgreSQL {}, and 12 is needed at least", version / 10_000);
        return Err(Failure::Unusable(words));
    }
    if row.try_get(1)? {
        let words = "the server takes no writes (a standby?); name the primary, or all of them and \
                     target_session_attrs=read-write";
        return Err(Failure::Unusable(words.to_owned()));
    }
    Ok(())
}

/// The version of the schema; 0 for an empty one, whose `meta` this makes.
async fn version(transaction: &Transaction<'_>, names: &Names) -> Result<usize, Failure> {
    let meta = names.sql("{s}.meta");
    let schema = names.sql("{s}");
    let row = transaction
        .query_one(
            "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($2) IS NOT NULL,
                    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace($1))",
            &[&schema, &meta],
        )
        .await?;
    let (is_made, has_meta, has_tables): (bool, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if !has_meta {
        if has_tables {
            return Err(Failure::Unusable(format!("the schema {} is of another program", names.schema)));
        }
        if !is_made {
            transaction.batch_execute(&names.sql("CREATE SCHEMA {s}")).await?;
        }
        let make = r#"CREATE TABLE {s}.meta (name text COLLATE "C" PRIMARY KEY, value text NOT NULL)"#;
        transaction.batch_execute(&names.sql(make)).await?;
        return Ok(0);
    }
    let row =
        transaction.query_opt(&names.sql("SELECT value FROM {s}.meta WHERE name = 'schema'"), &[]).await?;
    row.and_then(|row| row.try_get::<_, String>(0).ok()?.parse().ok())
        .ok_or_else(|| malformed("the version of the shared log cannot be read"))
}

/// Drops the partitions of what has expired, and of what the live part keeps no longer. Whoever is in the way is not
/// waited for: the next one will do it.
pub(super) async fn maintain(client: &mut Client, names: &Names) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '200ms'").await?;
    let only = transaction.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&(names.lock ^ 1)]).await?;
    if !only.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let partitions = names.sql(
        "SELECT child.relname::text, parent.relname::text FROM pg_inherits
         JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent ON parent.oid = inhparent
         WHERE inhparent IN ('{s}.live'::regclass, '{s}.state'::regclass)",
    );
    let rows = transaction.query(&partitions, &[]).await?;
    let row = transaction
        .query_one(&names.sql("SELECT segment, ({s}.millis() / 86400000)::integer FROM {s}.head"), &[])
        .await?;
    let (segment, today): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    for row in rows {
        let (name, parent): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let Some(number) = name.rsplit_once('_').and_then(|(_, number)| number.parse::<i32>().ok()) else {
            continue;
        };
        let table = names.sql(&format!("{{s}}.\"{name}\""));
        match parent.as_str() {
            "live" if number <= segment - SEGMENTS_KEPT => {
                let trim = names.sql(
                    "UPDATE {s}.head SET trimmed = greatest(trimmed,
                         (SELECT coalesce(max(position), 0) FROM {s}.live WHERE segment = $1))",
                );
                transaction.execute(&trim, &[&number]).await?;
                transaction.batch_execute(&format!("DROP TABLE {table}")).await?;
            }
            // An entry is in force until a minute and the leeway after its expiry: another day is plenty.
            "state" if number < today - 1 => {
                transaction.batch_execute(&format!("DROP TABLE {table}")).await?;
            }
            _ => {}
        }
    }
    transaction.commit().await?;
    Ok(())
}
