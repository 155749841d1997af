//! Keys of our own on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn open(dir: &Path, algorithm: Algorithm, now: UnixTime) -> Result<Keyring, KeyringError> {
    Keyring::open(&dir.join("keys"), algorithm, now)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir.join("keys")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_start_makes_a_key_and_the_next_reads_it_back() {
    for algorithm in
        [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::PS256, Algorithm::HS512]
    {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), algorithm, NOW).unwrap();
        assert_eq!(mode(&dir.path().join("keys")), 0o700);
        let [file] = &files(dir.path())[..] else { panic!("one file") };
        assert_eq!(mode(file), 0o600);
        assert_eq!(
            file.file_name().unwrap().to_str().unwrap(),
            format!("key-{}.json", first.signing_key().id())
        );
        let again = open(dir.path(), algorithm, after(60)).unwrap();
        assert_eq!(again.signing_key().id(), first.signing_key().id());
        assert_eq!(again.keys()[0].created, NOW);
    }
}

#[test]
fn another_algorithm_makes_another_key_and_the_old_one_goes_on_verifying() {
    let dir = tempfile::tempdir().unwrap();
    let settings = own(dir.path(), Algorithm::ES256);
    let text = access(&load(Some(&settings), &[], 0), "t1");
    let changed = load(Some(&own(dir.path(), Algorithm::HS256)), &[], 0);
    let other = access(&changed, "t2");
    for text in [&text, &other] {
        assert!(changed.verify(text, NOW).is_ok());
    }
    // And back: the first key is still there.
    let back = load(Some(&settings), &[], 0);
    assert_eq!(files(dir.path()).len(), 2);
    let kid = |text: &str| back.verify(text, NOW).unwrap().token.key_id.clone();
    assert_eq!(kid(&access(&back, "t3")), kid(&text));
    let jwks: serde_json::Value = serde_json::from_slice(&back.jwks_json(NOW).unwrap()).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1, "a secret is not published");
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    assert!(jwks["keys"][0].get("d").is_none() && jwks["keys"][0].get("k").is_none());
}

#[test]
fn refuses_key_files_that_others_can_read_with_the_command_that_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), Algorithm::ES256, NOW).unwrap();
    let file = files(dir.path()).remove(0);
    for bad in [0o640, 0o604, 0o620, 0o660, 0o644] {
        set_mode(&file, bad);
        let refused = open(dir.path(), Algorithm::ES256, NOW).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!("{0} is open to others (mode {bad:03o}): run chmod 600 {0}", file.display())
        );
    }
    set_mode(&file, 0o400);
    assert!(open(dir.path(), Algorithm::ES256, NOW).is_ok());
    let keys = dir.path().join("keys");
    set_mode(&keys, 0o750);
    let refused = open(dir.path(), Algorithm::ES256, NOW).unwrap_err().to_string();
    assert!(refused.ends_with(&format!("run chmod 700 {}", keys.display())), "{refused}");
}

#[test]
fn refuses_damaged_and_newer_key_files_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), Algorithm::ES256, NOW).unwrap();
    let file = files(dir.path()).remove(0);
    let good = fs::read_to_string(&file).unwrap();
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let refused = open(dir.path(), Algorithm::ES256, NOW).unwrap_err();
        assert!(refused.to_string().contains(&*file.to_string_lossy()), "{refused}");
        assert!(!refused.to_string().contains("MIG"), "{refused}");
        refused
    };
    for length in (0..good.trim_end().len()).step_by(7) {
        assert!(matches!(check(&good[..length]), KeyringError::Damaged { .. }), "cut at {length}");
    }
    let newer = good.replace("\"version\":1", "\"version\":2");
    assert!(matches!(check(&newer), KeyringError::Newer { version: 2, .. }));
    for (from, to) in [
        ("\"version\":1", "\"version\":\"1\""),
        ("portcullis-key", "other"),
        ("\"alg\":\"ES256\"", "\"alg\":\"ES384\""),
        ("\"alg\":\"ES256\"", "\"alg\":\"none\""),
        ("\"kid\":\"", "\"kid\":\"x"),
        ("\"created\":1800000000", "\"created\":\"now\""),
        ("\"not_after\":null", "\"not_after\":-1"),
        ("{", "{\"alg\":\"ES256\","),
        ("BEGIN PRIVATE", "BEGIN PUBLIC"),
        ("MIGHA", "MIGHB"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(matches!(check(&good.replacen(from, to, 1)), KeyringError::Damaged { .. }), "{from} as {to}");
    }
    fs::write(&file, good).unwrap();
    fs::copy(&file, dir.path().join("keys/key-copy.json")).unwrap();
    assert!(open(dir.path(), Algorithm::ES256, NOW).unwrap_err().to_string().contains("same kid"));
}

#[test]
fn what_a_crash_left_is_removed_and_foreign_files_are_let_be() {
    let dir = tempfile::tempdir().unwrap();
    let ring = open(dir.path(), Algorithm::ES256, NOW).unwrap();
    for name in [".tmp-key-abc.json", "README", "key-old.json.bak"] {
        fs::write(dir.path().join("keys").join(name), "half a k").unwrap();
    }
    let again = open(dir.path(), Algorithm::ES256, NOW).unwrap();
    assert_eq!(again.signing_key().id(), ring.signing_key().id());
    let names: Vec<_> = files(dir.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 3);
    assert!(!names.contains(&".tmp-key-abc.json".into()));
}

#[test]
fn rotation_lets_the_old_key_verify_until_its_overlap_ends() {
    let dir = tempfile::tempdir().unwrap();
    let before = load(Some(&own(dir.path(), Algorithm::ES256)), &[], 16);
    let text = access(&before, "t1");
    assert!(before.verify(&text, NOW).is_ok());
    let ring = before.own().unwrap().keyring().rotate(after(100), NOW).unwrap();
    let rotated = before.with_keyring(ring, NOW).unwrap();
    let fresh = access(&rotated, "t2");
    let kid = |text: &str| rotated.verify(text, NOW).unwrap().token.key_id.clone();
    assert_ne!(kid(&text), kid(&fresh));
    assert_eq!(
        before.verify(&fresh, NOW).unwrap_err(),
        VerifyError::UnknownKey,
        "the old value did not change"
    );
    for issuers in [&rotated, &load(Some(&own(dir.path(), Algorithm::ES256)), &[], 0)] {
        assert!(issuers.verify(&text, after(99)).is_ok());
        assert_eq!(issuers.verify(&text, after(100)).unwrap_err(), VerifyError::UnknownKey, "cached or not");
        assert!(issuers.verify(&fresh, after(100)).is_ok());
        assert_eq!(issuers.own().unwrap().keyring().signing_key().id(), &*kid(&fresh).unwrap());
    }
    let published = |at| rotated.own().unwrap().keyring().jwks_json(at).matches("\"kid\"").count();
    assert_eq!((published(after(99)), published(after(100))), (2, 1));
}

#[test]
fn a_retired_key_verifies_no_more_not_even_what_was_cached_and_import_revives_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = load(Some(&own(dir.path(), Algorithm::HS256)), &[], 16);
    let text = access(&before, "t1");
    let known = before.verify(&text, NOW).unwrap();
    let ring = before.own().unwrap().keyring();
    let id = known.token.key_id.clone().unwrap();
    assert!(matches!(ring.retire("nothing", NOW), Err(KeyringError::UnknownKey(_))));

    let retired = before.with_keyring(ring.retire(&id, NOW).unwrap(), NOW).unwrap();
    assert_eq!(retired.verify(&text, NOW).unwrap_err(), VerifyError::UnknownKey);
    assert!(retired.verify(&access(&retired, "t2"), NOW).is_ok(), "another key signs");
    assert!(
        load(Some(&own(dir.path(), Algorithm::HS256)), &[], 0).verify(&text, NOW).is_err(),
        "after a restart"
    );
    // Whoever still works with the old value puts its verdict into the shared cache; the new one takes no notice.
    assert!(before.verify(&text, NOW).is_ok());
    assert_eq!(retired.verify(&text, NOW).unwrap_err(), VerifyError::UnknownKey);

    let exported = ring.signing_key().export().unwrap();
    let key = SigningKey::import(Algorithm::HS256, &exported, &id).unwrap();
    let ring = retired.own().unwrap().keyring().import(key, after(1)).unwrap();
    assert!(retired.with_keyring(ring, NOW).unwrap().verify(&text, NOW).is_ok());
}

#[test]
fn a_key_made_while_the_clock_is_behind_signs_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let ring = open(dir.path(), Algorithm::EdDSA, NOW).unwrap();
    let rotated = ring.rotate(after(10), UnixTime::ZERO).unwrap();
    assert_ne!(rotated.signing_key().id(), ring.signing_key().id());
    let ids = |ring: &Keyring| ring.keys().iter().map(|kept| kept.key.id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&open(dir.path(), Algorithm::EdDSA, NOW).unwrap()), ids(&rotated));
}

#[test]
fn an_id_that_makes_no_file_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ring = open(dir.path(), Algorithm::HS256, NOW).unwrap();
    for id in ["", "../evil", "a/b", "a.b", "ä", &"a".repeat(129)] {
        let key = SigningKey::from_secret(Algorithm::HS256, &[7; 32], id).unwrap();
        assert!(matches!(ring.import(key, NOW), Err(KeyringError::UnusableId(_))), "{id:?}");
    }
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_key_is_not_taken_in_for_a_second_algorithm() {
    let dir = tempfile::tempdir().unwrap();
    let ring = open(dir.path(), Algorithm::RS256, NOW).unwrap();
    let exported = ring.signing_key().export().unwrap();
    let again = |algorithm| ring.import(SigningKey::from_pkcs8_pem(algorithm, &exported).unwrap(), NOW);
    assert!(matches!(again(Algorithm::PS256), Err(KeyringError::OtherAlgorithm(_))));
    let same = again(Algorithm::RS256).unwrap();
    assert_eq!((same.keys().len(), same.signing_key().id()), (1, ring.signing_key().id()));
    let other = SigningKey::generate(Algorithm::ES256).unwrap();
    let both = ring.import(other, NOW).unwrap();
    assert_eq!((both.keys().len(), both.signing_key().id()), (2, ring.signing_key().id()));
    let newer = SigningKey::generate(Algorithm::RS256).unwrap();
    let id = newer.id().to_owned();
    assert_eq!(both.import(newer, NOW).unwrap().signing_key().id(), id, "the newest signs");
}
