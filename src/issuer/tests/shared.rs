//! Keys that gateways share, on a safe in memory.

use std::sync::Mutex;

use super::*;
use crate::clock::Clock;
use crate::store::{Answer, Content, Safe, Sealed};

const KEK: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEK: &str = "fedcba9876543210fedcba9876543210";

struct Still;

impl Clock for Still {
    fn now(&self) -> UnixTime {
        NOW
    }
}

/// Does what the stores do.
#[derive(Default)]
struct Drawer {
    content: Mutex<Content>,
    away: std::sync::atomic::AtomicBool,
}

impl Drawer {
    fn answer<T: Send + 'static>(&self, of: impl FnOnce(&mut Content) -> T) -> Answer<'_, T> {
        let away = self.away.load(std::sync::atomic::Ordering::SeqCst);
        let done = match away {
            true => Err(StoreError::Unavailable("away".into())),
            false => Ok(of(&mut self.content.lock().unwrap())),
        };
        // Others come in between.
        Box::pin(async move {
            tokio::task::yield_now().await;
            done
        })
    }
}

impl Safe for Drawer {
    fn safe_version(&self) -> Answer<'_, u64> {
        self.answer(|content| content.version)
    }

    fn safe_content(&self) -> Answer<'_, Content> {
        self.answer(|content| content.clone())
    }

    fn safe_put(&self, version: u64, changed: Vec<Sealed>) -> Answer<'_, bool> {
        self.answer(move |content| {
            if content.version != version {
                return false;
            }
            content.version += 1;
            for each in changed {
                content.all.retain(|old| old.id != each.id);
                content.all.push(each);
            }
            true
        })
    }
}

fn shared(drawer: &Arc<Drawer>, dir: &Path, keks: &[&str]) -> Arc<SharedKeys> {
    let sealing = Arc::new(Sealing::from_text(&keks.join("\n")).unwrap());
    Arc::new(SharedKeys::new(&own(dir, Algorithm::ES256), sealing, drawer.clone(), Arc::new(Still)))
}

fn ids(keyring: &Keyring) -> Vec<String> {
    keyring.keys().iter().map(|kept| kept.key.id().to_owned()).collect()
}

#[tokio::test]
async fn gateways_that_start_at_once_agree_on_one_key_and_one_nonce_secret() {
    let (drawer, dir) = (Arc::new(Drawer::default()), tempfile::tempdir().unwrap());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let keys = shared(&drawer, dir.path(), &[KEK]);
            tokio::spawn(async move { keys.open().await.unwrap() })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        let (keyring, secret) = task.await.unwrap();
        all.push((ids(&keyring), secret.to_vec()));
    }
    assert_eq!(all[0].0.len(), 1);
    assert!(all.iter().all(|each| *each == all[0]));
    assert!(!dir.path().join("keys").exists(), "no file is made");
    let content = drawer.content.lock().unwrap().clone();
    assert!(content.all.iter().all(|sealed| !sealed.sealed.windows(7).any(|bytes| bytes == b"PRIVATE")));
}

#[tokio::test]
async fn changes_of_several_gateways_are_all_there() {
    let (drawer, dir) = (Arc::new(Drawer::default()), tempfile::tempdir().unwrap());
    let keys: Vec<_> = (0..4).map(|_| shared(&drawer, dir.path(), &[KEK])).collect();
    keys[0].open().await.unwrap();
    let tasks: Vec<_> = keys
        .iter()
        .map(|keys| {
            let keys = keys.clone();
            let rotate = |keyring: &Keyring| Ok::<_, KeyringError>((keyring.rotate(after(60), NOW)?, ()));
            tokio::spawn(async move { keys.change(rotate).await.unwrap().0.signing_key().id().to_owned() })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        made.push(task.await.unwrap());
    }
    let (keyring, _) = keys[3].open().await.unwrap();
    assert_eq!(keyring.keys().len(), 5);
    assert!(made.iter().all(|id| ids(&keyring).contains(id)));
    let can_sign = keyring.keys().iter().filter(|kept| kept.not_after.is_none()).count();
    assert_eq!(can_sign, 1, "of all keys one signs, for whoever reads them");
}

#[tokio::test]
async fn files_that_were_used_before_come_in_and_their_tokens_stay_good() {
    let drawer = Arc::new(Drawer::default());
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] =
        dirs.each_ref().map(|dir| Keyring::open(&dir.path().join("keys"), Algorithm::ES256, NOW).unwrap());
    let (keyring, _) = shared(&drawer, dirs[0].path(), &[KEK]).open().await.unwrap();
    assert_eq!(ids(&keyring), ids(&first));
    let (keyring, _) = shared(&drawer, dirs[1].path(), &[KEK]).open().await.unwrap();
    assert_eq!(keyring.keys().len(), 2);
    assert_eq!(keyring.signing_key().id(), first.signing_key().id(), "what signs for all goes on signing");
    let adopted = keyring.keys().iter().find(|kept| kept.key.id() == second.signing_key().id()).unwrap();
    assert_eq!(adopted.not_after, Some(after(30 * 86400)), "as long as the longest token lives");
    // And once is enough.
    let version = keyring.version();
    assert_eq!(shared(&drawer, dirs[1].path(), &[KEK]).open().await.unwrap().0.version(), version);
}

#[tokio::test]
async fn a_new_key_encryption_key_takes_over_without_a_gap() {
    let (drawer, dir) = (Arc::new(Drawer::default()), tempfile::tempdir().unwrap());
    let open = async |keks: &[&str]| shared(&drawer, dir.path(), keks).open().await;
    let (first, secret) = open(&[KEK]).await.unwrap();
    let refused = open(&[OTHER_KEK]).await.unwrap_err();
    assert!(matches!(refused, KeyringError::Sealed { .. }), "{refused}");
    // Known everywhere, then sealing everywhere, then alone.
    for keks in [&[KEK, OTHER_KEK][..], &[OTHER_KEK, KEK], &[OTHER_KEK]] {
        let (keyring, same) = open(keks).await.unwrap();
        assert_eq!((ids(&keyring), &same), (ids(&first), &secret), "{keks:?}");
    }
    assert!(open(&[KEK]).await.is_err());
}

#[tokio::test]
async fn a_token_by_a_key_that_was_just_made_elsewhere_is_looked_up_before_it_is_refused() {
    let (drawer, dir) = (Arc::new(Drawer::default()), tempfile::tempdir().unwrap());
    let gateway = async || {
        let keys = shared(&drawer, dir.path(), &[KEK]);
        let (keyring, _) = keys.open().await.unwrap();
        let settings = own(dir.path(), Algorithm::ES256);
        let setup = Setup {
            own: Some(&settings),
            external: &[],
            revocable: &[],
            token_cache: 16,
            token_bytes_max: 8192,
            nonce_secret: None,
            shared: Some((&keyring, &keys)),
        };
        let current = Arc::new(Current::new(Issuers::load(&setup, NOW).unwrap().0));
        let task = tokio::spawn(keys.clone().keep(current.clone()));
        (keys, current, task)
    };
    let ((keys, one, first), (_, two, second)) = (gateway().await, gateway().await);
    for round in 0..3 {
        let rotate = |keyring: &Keyring| Ok::<_, KeyringError>((keyring.rotate(after(60), NOW)?, ()));
        let (keyring, ()) = keys.change(rotate).await.unwrap();
        one.adopt(keyring, NOW).unwrap();
        let text = access(&one.load(), &format!("t{round}"));
        two.verify(&text, NOW).await.unwrap();
        let own_way = two.verify_own_tolerating_expiry(&text, NOW).await;
        assert!(own_way.is_ok());
        assert_eq!(two.load().jwks_json(NOW), one.load().jwks_json(NOW));
    }
    // Of a key that nobody has: refused, after a look.
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = load(Some(&own(elsewhere.path(), Algorithm::ES256)), &[], 0);
    let forged = access(&stranger, "forged");
    assert_eq!(two.verify(&forged, NOW).await.unwrap_err(), VerifyError::UnknownKey);
    // While nobody can look it is not known whether it is good.
    let good = access(&one.load(), "good");
    drawer.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let unknown = two.verify(&forged, NOW).await.unwrap_err();
    assert!(unknown.is_unavailable(), "{unknown}");
    two.verify(&good, NOW).await.unwrap();
    first.abort();
    second.abort();
}
