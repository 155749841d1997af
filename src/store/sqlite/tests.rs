//! What is SQLite's alone; what every store does is in `store::tests`.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::store::Trail;

fn fresh() -> (TempDir, Sqlite) {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("state/portcullis.db")).unwrap();
    (dir, store)
}

#[tokio::test]
async fn the_gateway_that_joined_last_feeds_the_trail_after_a_restart() {
    let (dir, store) = fresh();
    store.join("one").await.unwrap();
    store.join("two").await.unwrap();
    store.trail_append(vec![crate::store::tests::entry(1, "token", "b")]).await.unwrap();
    drop(store);
    let store = Sqlite::open(&dir.path().join("state/portcullis.db")).unwrap();
    assert_eq!(store.trail_position().await.unwrap(), 1);
}

#[tokio::test]
async fn a_panic_leaves_the_writer_alive_and_nothing_written() {
    let (_dir, store) = fresh();
    let broken = store
        .write(|connection| {
            connection.execute("INSERT INTO gateways (id) VALUES ('half')", [])?;
            assert!(connection.is_autocommit(), "always false here");
            Ok(())
        })
        .await;
    assert!(matches!(broken, Err(StoreError::Unavailable(_))));
    assert_eq!(store.gateways().await.unwrap(), []);
    store.join("whole").await.unwrap();
    assert_eq!(store.gateways().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_is_an_answer_at_once() {
    let (_dir, store) = fresh();
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let blocked = store.write(move |_| Ok(released.recv().is_ok()));
    // One more than fits: the writer may hold a piece of work beside its queue.
    let waiting: Vec<_> = (0..super::worker::QUEUE_MAX + 300).map(|_| store.write(|_| Ok(()))).collect();
    release.send(()).unwrap();
    assert!(blocked.await.unwrap());
    let answers = futures_util::future::join_all(waiting).await;
    assert!(answers.iter().any(Result::is_ok));
    assert!(matches!(answers.last(), Some(Err(StoreError::Unavailable(_)))));
    store.write(|_| Ok(())).await.unwrap();
}

fn refusal(dir: &TempDir, name: &str) -> String {
    match Sqlite::open(&dir.path().join(name)).map(drop) {
        Err(StoreError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refuses_what_is_not_a_store_of_this_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let private = |name: &str| {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };

    drop(Sqlite::open(&path("newer.db")).unwrap());
    let edit = |name: &str, sql| Connection::open(path(name)).unwrap().execute_batch(sql).unwrap();
    edit("newer.db", "UPDATE meta SET value = '999' WHERE name = 'schema'");
    assert!(refusal(&dir, "newer.db").contains("version 999"), "newer");

    edit("other.db", "CREATE TABLE notes (text)");
    private("other.db");
    assert!(refusal(&dir, "other.db").contains("another program"));

    std::fs::write(path("noise.db"), [7; 5000]).unwrap();
    private("noise.db");
    assert!(refusal(&dir, "noise.db").contains("not an SQLite database"));

    drop(Sqlite::open(&path("open.db")).unwrap());
    std::fs::set_permissions(path("open.db"), std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refusal(&dir, "open.db").contains("chmod 600"));
}

#[test]
fn its_files_are_for_nobody_else() {
    let (dir, store) = fresh();
    for entry in std::fs::read_dir(dir.path().join("state")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    drop(store);
}
