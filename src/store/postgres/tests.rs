//! What is PostgreSQL's alone: the server's errors, absence and upgrades; what every store does is in `store::tests`.

use std::path::Path;

use super::*;
use crate::store::tests::NOW;
use crate::store::tests::server::Postgres as Server;
use crate::store::{Accounts as _, Common as _, Count, Mark, Trail as _};

fn settings(url: &str) -> settings::Postgres {
    settings::Postgres::parse(url, |path| Path::new(path).to_owned()).unwrap()
}

fn open(server: &Server) -> Postgres {
    Postgres::open(&settings(&server.url())).unwrap()
}

/// Why a store cannot be opened.
fn refusal(url: &str) -> String {
    match Postgres::open(&settings(url)).map(drop) {
        Err(StoreError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn gateways_that_start_at_once_make_the_schema_once() {
    let server = Server::start();
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| drop(open(&server)))).collect();
        opened.into_iter().for_each(|opened| opened.join().unwrap());
    });
    assert_eq!(server.sql("SELECT value FROM portcullis.meta WHERE name = 'schema'"), "3\n");
    // The application's own tables are left alone, whatever their names.
    server.sql("CREATE TABLE public.users (id int); INSERT INTO public.users VALUES (1)");
    drop(open(&server));
    assert_eq!(server.sql("SELECT count(*) FROM public.users"), "1\n");
}

#[test]
fn refuses_what_is_not_a_store_of_this_version() {
    let server = Server::start();
    let url = server.url();
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    assert!(refusal(&url.replace("///portcullis", "///latin")).contains("LATIN1"));
    drop(open(&server));
    server.sql("UPDATE portcullis.meta SET value = '999' WHERE name = 'schema'");
    assert!(refusal(&url).contains("version 999"));
    server.sql(
        "DROP SCHEMA portcullis CASCADE; CREATE SCHEMA portcullis; CREATE TABLE portcullis.notes (text text)",
    );
    assert!(refusal(&url).contains("another program"));
    server.sql(
        "DROP SCHEMA portcullis CASCADE; ALTER DATABASE portcullis SET default_transaction_read_only = on",
    );
    assert!(refusal(&url).contains("standby"));
    assert!(refusal(&url.replace("user=gate", "user=nobody")).contains("nobody"));
    assert!(refusal(&url.replace("///portcullis", "///elsewhere")).contains("elsewhere"));
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_unavailable_and_back_when_it_is() {
    let mut server = Server::start();
    let store = Arc::new(open(&server));
    store.join("one").await.unwrap();
    let read = || store.user("u");

    // Stopped in the middle: connections are there, and new ones are accepted by the kernel, but nothing comes back.
    server.signal("STOP");
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.user("u").await })
        })
        .collect();
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Err(StoreError::Unavailable(_))));
    }
    server.signal("CONT");
    wait_for(async || read().await.is_ok()).await;

    // Gone at once, and started again: connections are made anew.
    server.kill9();
    assert!(matches!(read().await, Err(StoreError::Unavailable(_))));
    server.begin();
    wait_for(async || read().await.is_ok()).await;
    assert_eq!(store.trail_position().await.unwrap(), 0);
}

#[tokio::test]
async fn more_callers_than_can_wait_are_told_so_at_once() {
    let server = Server::start();
    let store = open(&server);
    server.signal("STOP");
    let mut answers: Vec<_> = (0..2000).map(|_| store.user("u")).collect();
    let last = answers.pop().unwrap().await;
    assert!(last.is_err_and(|error| format!("{error:?}").contains("too many wait")));
    server.signal("CONT");
    for answer in answers {
        let _ = answer.await;
    }
    wait_for(async || store.user("u").await.is_ok()).await;
}

#[tokio::test]
async fn an_unreachable_server_is_waited_for_at_the_start() {
    let mut server = Server::start();
    let url = settings(&server.url());
    server.kill9();
    let opening = std::thread::spawn(move || Postgres::open(&url).map(drop));
    server.begin();
    opening.join().unwrap().unwrap();
}

#[tokio::test]
async fn transactions_in_each_others_way_are_tried_again() {
    let server = Server::start();
    let store = Arc::new(open(&server));
    server.sql(
        "INSERT INTO portcullis.sessions (id, subject, created, expires, user_agent, address)
         SELECT 's' || n, 'u', 0, 1, '', '' FROM generate_series(0, 99) AS n",
    );
    let ids = |forward: bool| {
        let mut ids: Vec<Box<str>> = (0..100).map(|n| format!("s{n}").into()).collect();
        if !forward {
            ids.reverse();
        }
        ids
    };
    // A lock order is not promised by the server; whatever it is, every mark is made.
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let (store, sessions) = (store.clone(), ids(n % 2 == 0));
            tokio::spawn(async move {
                store.mark_revoked(Mark { sessions, tokens: vec![], at: NOW, by: "x".into() }).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let rows = store.sessions("u", crate::store::Page { before: None, limit: 1000 }).await.unwrap();
    assert!(rows.len() == 100 && rows.iter().all(|row| row.revoked_at.is_some()));
}

#[tokio::test]
async fn many_attempts_at_once_count_no_more_for_all_than_one_address_may() {
    let server = Server::start();
    let store = Arc::new(open(&server));
    let (one, all) = ([1; 32], [2; 32]);
    let until = NOW.plus(Duration::from_secs(60));
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.count([one, all], 5, until, NOW).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let counted = |now| store.counts([one, all], now);
    assert_eq!(counted(NOW).await.unwrap(), [40, 5].map(|count| Count { count, until }));
    // Another address counts for itself, and for all.
    let [own, of_all] = store.count([[3; 32], all], 5, until, NOW).await.unwrap();
    assert_eq!((own.count, of_all.count), (1, 6));
    assert_eq!(counted(until).await.unwrap().map(|known| known.count), [0, 0]);
    let again = store.count([one, all], 5, until.plus(Duration::from_secs(60)), until).await.unwrap();
    assert_eq!(again.map(|known| known.count), [1, 1], "a window of its own");
}

#[tokio::test]
async fn what_the_server_says_of_rows_is_not_repeated() {
    let server = Server::start();
    let store = open(&server);
    server.sql("ALTER TABLE portcullis.gateways ADD CHECK (id <> 'a secret')");
    let error = store.join("a secret").await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("a secret"), "{error:?}");
    assert!(format!("{error:?}").contains("23514"), "{error:?}");
}

#[test]
fn speaks_tls_with_a_server_whose_certificate_is_its_own() {
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = ["listen_addresses=127.0.0.1", "ssl=on"];
    let keys = |data: &Path| {
        std::fs::write(data.join("server.crt"), authority.cert.pem()).unwrap();
        std::fs::write(data.join("server.key"), authority.signing_key.serialize_pem()).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(data.join("server.key"), private).unwrap();
        let only_tls = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), only_tls).unwrap();
    };
    let server = Server::start_on(port, &listen, keys);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (good, bad) = (file("good.pem", authority.cert.pem()), file("bad.pem", other.cert.pem()));
    let url = |host: &str, roots: &str| {
        settings(&format!("postgres://gate@{host}:{port}/portcullis?sslmode=verify-full&sslrootcert={roots}"))
    };
    let connects = |settings: &settings::Postgres| {
        let link = Link::new(settings, 1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = || Instant::now() + OPERATION_MAX;
        runtime.block_on(async {
            link.run(deadline(), &(), |client, ()| {
                Box::pin(async move {
                    let row = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                    Ok(client.query_one(row, &[]).await?.try_get::<_, bool>(0)?)
                })
            })
            .await
        })
    };
    let refused = |error: &StoreError, why: &str| {
        let StoreError::Unavailable(error) = error else { panic!("{error:?}") };
        let said = format!("{error} {error:?}");
        assert!(said.contains(why), "{said}");
    };
    assert!(connects(&url("localhost", &good)).unwrap());
    refused(&connects(&url("localhost", &bad)).unwrap_err(), "InvalidCertificate");
    // The certificate names the host, not its address.
    refused(&connects(&url("127.0.0.1", &good)).unwrap_err(), "NotValidForName");
    let clear = settings(&format!("postgres://gate@127.0.0.1:{port}/portcullis"));
    assert!(connects(&clear).is_err(), "the server takes TLS only");
    let nothing = file("empty.pem", String::new());
    assert!(matches!(Link::new(&url("localhost", &nothing), 1), Err(StoreError::Unusable(_))));
    drop(server);
}

async fn wait_for(mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < until, "it did not come to pass");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
