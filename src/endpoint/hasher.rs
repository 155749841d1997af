//! Argon2id (RFC 9106) on threads of its own, behind a bounded queue: however many sign in at once, so many hashes
//! are computed at a time, so much memory is used, and whoever does not fit is told at once.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::imported::{Imported, phc_of};
use super::settings::Password;
use crate::answer::{Code, Problem};
use crate::store::PasswordHash;
use crate::worker;

/// Hashes that may wait for one thread: at about 21 ms each, under three seconds.
const QUEUE_PER_THREAD: usize = 128;
/// A request that is proxied waits for milliseconds, a sign-in for a hash of twenty and its queue: where both want the
/// processor, the request goes first. Not so far behind that a busy gateway signs nobody in.
const NICENESS: i32 = 5;
/// When to come back to a full queue, in seconds: it is empty by then.
const RETRY_AFTER: u64 = 3;
/// A hash in the store that asks for more than this was not written by us; computing it would be an attack.
const MEMORY_KIB_MAX: u32 = 4 * 1024 * 1024;
/// What a hash made elsewhere may ask for, unless ours ask for more: memory, and memory times passes (the time).
const IMPORTED_KIB_MAX: u32 = 256 * 1024;
const IMPORTED_KIB_PASSES_MAX: u64 = 2 * 1024 * 1024;

/// The hashing threads; they end when this is dropped and their queue is empty.
pub(super) struct Hasher {
    queue: SyncSender<Job>,
    settings: Password,
    params: Params,
    /// Fits no password, and costs what one of ours costs.
    dummy: PasswordHash,
}

enum Job {
    Hash(Zeroizing<String>, oneshot::Sender<Option<PasswordHash>>),
    Verify(Zeroizing<String>, PasswordHash, oneshot::Sender<Option<bool>>),
}

impl Hasher {
    /// Starts the threads.
    ///
    /// # Errors
    /// Parameters out of RFC 9106's range; a thread that cannot be started; no random bytes.
    pub(super) fn start(settings: &Password) -> std::io::Result<Self> {
        let invalid = |error: argon2::Error| std::io::Error::other(format!("argon2: {error}"));
        let params = Params::new(settings.memory_kib, settings.iterations, settings.parallelism, None)
            .map_err(invalid)?;
        let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
        getrandom::fill(&mut output).map_err(std::io::Error::other)?;
        let dummy = phc(&params, salt().ok_or_else(|| std::io::Error::other("no random bytes"))?, &output)
            .ok_or_else(|| std::io::Error::other("argon2: parameters do not fit a PHC string"))?;

        let threads = settings.max_concurrent_hashes.max(1);
        let (queue, jobs) = sync_channel(threads.saturating_mul(QUEUE_PER_THREAD));
        let jobs = Arc::new(Mutex::new(jobs));
        // More than they may use cores would only take these from each other, and from requests.
        for _ in 0..threads.min(worker::cores_left()) {
            let (jobs, params) = (jobs.clone(), params.clone());
            std::thread::Builder::new().name("hasher".to_owned()).spawn(move || work(&jobs, &params))?;
        }
        Ok(Self { queue, settings: settings.clone(), params, dummy })
    }

    /// Whether it was started with these settings.
    pub(super) fn fits(&self, settings: &Password) -> bool {
        self.settings == *settings
    }

    /// A new hash of this password (in NFC), with a salt of its own.
    ///
    /// # Errors
    /// 503 when the queue is full.
    pub(super) async fn hash(&self, password: Zeroizing<String>) -> Result<PasswordHash, Problem> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Hash(password, reply))?;
        answer.await.ok().flatten().ok_or_else(failed)
    }

    /// Whether the password fits the hash; `None` for an account that is not there: false, after the same work.
    ///
    /// # Errors
    /// 503 when the queue is full.
    pub(super) async fn verify(
        &self,
        password: Zeroizing<String>,
        hash: Option<PasswordHash>,
    ) -> Result<bool, Problem> {
        let (reply, answer) = oneshot::channel();
        let hash = hash.unwrap_or_else(|| self.dummy.clone());
        self.submit(Job::Verify(password, hash, reply))?;
        answer.await.ok().flatten().ok_or_else(failed)
    }

    /// Whether a hash was made in another way than new ones are, and should be made anew.
    pub(super) fn is_outdated(&self, hash: &PasswordHash) -> bool {
        let costs = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        let same = Phc::new(&hash.0).ok().is_some_and(|phc| {
            phc.algorithm == Algorithm::Argon2id.ident()
                && phc.version == Some(Version::V0x13.into())
                && Params::try_from(&phc).is_ok_and(|params| costs(&params) == costs(&self.params))
        });
        !same
    }

    /// A hash that another program made, as it will be kept.
    ///
    /// # Errors
    /// In words that begin after "the hash", without a part of it: of no kind that is known, malformed, or asking for
    /// more work or memory than is taken.
    pub(super) fn accept(&self, text: &str) -> Result<PasswordHash, String> {
        let text = text.trim();
        let Some(text) = phc_of(text) else {
            return Imported::read(text).map(|_| PasswordHash(text.into()));
        };
        let malformed = || "is no well-formed hash of Argon2".to_owned();
        let phc = Phc::new(text).map_err(|_| malformed())?;
        let params = Params::try_from(&phc).map_err(|_| malformed())?;
        if phc.salt.is_none()
            || phc.hash.is_none()
            || phc.version.is_none_or(|it| Version::try_from(it).is_err())
        {
            return Err(malformed());
        }
        let work = |params: &Params| u64::from(params.m_cost()) * u64::from(params.t_cost());
        if params.m_cost() > self.params.m_cost().max(IMPORTED_KIB_MAX)
            || work(&params) > work(&self.params).max(IMPORTED_KIB_PASSES_MAX)
        {
            return Err(format!(
                "asks for Argon2 with {} KiB and {} passes; at most {IMPORTED_KIB_MAX} KiB and {IMPORTED_KIB_PASSES_MAX} KiB \
                 times passes are taken",
                params.m_cost(),
                params.t_cost()
            ));
        }
        Ok(PasswordHash(text.into()))
    }

    /// Whether a hash out of the store can be computed at all.
    pub(super) fn understands(&self, hash: &PasswordHash) -> bool {
        self.accept(&hash.0).is_ok() || argon2_of(&hash.0).is_some()
    }

    fn submit(&self, job: Job) -> Result<(), Problem> {
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                Problem::new(Code::Overloaded, "Too many sign-ins at once").with_retry_after(RETRY_AFTER)
            }
            TrySendError::Disconnected(_) => failed(),
        })
    }
}

fn failed() -> Problem {
    Problem::new(Code::Internal, "The password could not be processed")
}

fn work(jobs: &Mutex<Receiver<Job>>, params: &Params) {
    worker::give_way(NICENESS);
    worker::leave_a_core();
    // Kept from job to job: fresh pages for 19 MiB would cost as much as a tenth of the hash itself. Taken with the
    // first job: a gateway that signs nobody in does without.
    let mut memory = Vec::new();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        match job {
            // Whoever asked may have stopped waiting.
            Job::Hash(password, reply) => {
                let _ = reply.send(hash(&password, params, &mut memory));
            }
            Job::Verify(password, against, reply) => {
                let _ = reply.send(verify(&password, &against, params, &mut memory));
            }
        }
    }
}

fn hash(password: &str, params: &Params, memory: &mut Vec<Block>) -> Option<PasswordHash> {
    let salt = salt()?;
    let output = compute(password, &salt, Algorithm::Argon2id, Version::V0x13, params, memory)?;
    phc(params, salt, &output)
}

/// `None` for a hash that cannot be computed: neither written by this program nor taken in.
fn verify(password: &str, hash: &PasswordHash, ours: &Params, memory: &mut Vec<Block>) -> Option<bool> {
    if phc_of(&hash.0).is_none() {
        return Imported::read(&hash.0).ok()?.fits(password);
    }
    let (algorithm, version, params, salt, expected) = argon2_of(&hash.0)?;
    let output = compute(password, &salt, algorithm, version, &params, memory)?;
    // A hash from before with more memory must not keep it for good.
    memory.truncate(ours.block_count());
    memory.shrink_to(ours.block_count());
    Some(output.ct_eq(expected.as_bytes()).into())
}

/// What an Argon2 hash says, within what this program can have written.
fn argon2_of(text: &str) -> Option<(Algorithm, Version, Params, Salt, Output)> {
    let phc = Phc::new(text).ok()?;
    let params = Params::try_from(&phc).ok().filter(|params| params.m_cost() <= MEMORY_KIB_MAX)?;
    let algorithm = Algorithm::try_from(phc.algorithm.as_str()).ok()?;
    let version = Version::try_from(phc.version?).ok()?;
    Some((algorithm, version, params, phc.salt?, phc.hash?))
}

fn compute(
    password: &str,
    salt: &[u8],
    algorithm: Algorithm,
    version: Version,
    params: &Params,
    memory: &mut Vec<Block>,
) -> Option<Zeroizing<Vec<u8>>> {
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::new());
    }
    let mut output = Zeroizing::new(vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)]);
    Argon2::new(algorithm, version, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, memory.as_mut_slice())
        .ok()?;
    Some(output)
}

fn salt() -> Option<Salt> {
    let mut bytes = [0; argon2::RECOMMENDED_SALT_LEN];
    getrandom::fill(&mut bytes).ok()?;
    Salt::new(&bytes).ok()
}

fn phc(params: &Params, salt: Salt, output: &[u8]) -> Option<PasswordHash> {
    let phc = Phc {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).ok()?,
        salt: Some(salt),
        hash: Some(Output::new(output).ok()?),
    };
    Some(PasswordHash(phc.to_string().into()))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::support;
    use super::*;

    /// Password and hash; the hash made by Django 5.2, Werkzeug 3.1, bcrypt 5.0 and argon2-cffi 25.1, the last of these
    /// with the parameters of the tests once.
    const IMPORTED: &[(&str, &str)] = &[
        ("correct horse 1!", "pbkdf2_sha256$1000$seasalt$uHYp1xjoDuBtv9+JonQt33Uy7K/bv3dAzSu4p1xTk4Y="),
        ("pässwörd ☃ 7", "pbkdf2_sha256$1$Kz9ywe$mVvZ4QeqDUEK0uBrpvmNSZO5SywOLlbVSTfYoAvkZrQ="),
        ("correct horse 1!", "pbkdf2_sha1$1000$seasalt$fFFAh+wSFTJlP1eD8VDtUOC3O8g="),
        (
            "correct horse 1!",
            "scrypt$16$seasalt$8$5$BUzrK5ZINx+obsnxESep4l+ZLj00aWS0D/DNsmmVsEweHyrx3Cd17e4FjW4MkTdIfA2jEDD59x7D3ADuiho8xg==",
        ),
        (
            "correct horse 1!correct horse 1!correct horse 1!correct horse 1!correct horse 1!correct horse 1!correct horse 1!correct horse 1!",
            "bcrypt_sha256$$2b$04$ONO8/JN825IPi1wbddXKmegJblKRwrOU3Xdw7UmPvCgBg30nGkDay",
        ),
        ("correct horse 1!", "bcrypt$$2b$04$Nze6jf26kEZXZQBcGPqUpO0spkYPACaNuKdrS9W8XS6kmaXUSWs9S"),
        (
            "correct horse 1!",
            "argon2$argon2id$v=19$m=64,t=1,p=1$UWRXc2hKZXNOYUk0blRldlkzNVgydQ$mDQf7xnnE8FqBd1nvVeECUpjmki12YLnFLMu5X5zN3I",
        ),
        (
            "correct horse 1!",
            "pbkdf2:sha256:1000$fag406cETrQ5QTSG$f6e1ec39dec34de9904d2b33e967b70b74669dc2d9a806111786a3f7f83094cb",
        ),
        ("correct horse 1!", "pbkdf2:sha1:10$JkTW6acM42zLJ6So$20252fa11ded5a4b1cc7ebf924433bfad917361d"),
        (
            "correct horse 1!",
            "pbkdf2:sha512:10$DYzWEz1alv2RVpCB$71586afa67fc674d7a05db080e55d4611808db6872db25ada58ce64db50f4cd8d9edf7411a993b17b52e25d9c898fd7f3f103a80a3f7a8fb47b76d1498a3e78e",
        ),
        (
            "correct horse 1!",
            "scrypt:16:8:2$A9DmJ2tMOPFSFDWn$a27a402f1bc46b36a22baa972d894386dc360cb51a148c9e4aeaa29adb5b3c8139eaacea5b631f307b73f69dc8dac9f118b7ae322025883f7ea5846c0cb636d2",
        ),
        (
            "pässwörd ☃ 7",
            "scrypt:1024:8:1$icKKfdKTBukOfFYJ$3af5ff69b0637ad589d16abc6fe31faf3268c11ccb3dc48d726eeaf7cdac10fca801f7eafeff3b09bfb08c7d7f70eb0f1d0c48cb352df5efda5fc8112826cdce",
        ),
        ("correct horse 1!", "$2a$04$49i3ZfgspyhUFr1H2mFb5e2YPD4MyqoYdEB6nYZ2.6eBR6VNmPqh."),
        ("correct horse 1!", "$2b$04$n.5aZugezrj7MQBM4dxd8uX/McJvs3/wmBEPlWXQ1kqntUC84ULLu"),
        ("pässwörd ☃ 7", "$2y$05$S2k.x25.WGGP6.7NklLqruB7WF2SHlCR577mP9SURiap9XvU6RYSa"),
        (
            "correct horse 1!",
            "$argon2i$v=19$m=64,t=1,p=1$1255C+Zhr07RVxmKbA9JzA$O3A+xN8xNj1oI1aJs+ct6QGr6XfIGhFP0NjTnv+nvjQ",
        ),
        (
            "correct horse 1!",
            "$argon2id$v=19$m=128,t=2,p=1$FYQRMqsjKwWdyrpN6/h+mw$Zb2/0foxe7zPV2jfeIdRJVJQv7m9sTy0YTldgeMJw7E",
        ),
    ];

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_hash_fits_its_password_alone_and_tells_its_parameters() {
        let hasher = Hasher::start(&support::settings().password).unwrap();
        let hash = hasher.hash(secret("correct")).await.unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", hash.0);
        assert_ne!(hash, hasher.hash(secret("correct")).await.unwrap(), "salted");
        assert!(hasher.verify(secret("correct"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(secret("Correct"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(secret("correct"), None).await.unwrap());
        assert!(!hasher.is_outdated(&hash));
        assert!(!hasher.is_outdated(&hasher.dummy), "the dummy costs what a real one costs");
    }

    #[tokio::test]
    async fn a_hash_of_other_parameters_still_fits_and_is_outdated() {
        let old = Password { memory_kib: 128, iterations: 2, ..support::settings().password };
        let old = Hasher::start(&old).unwrap().hash(secret("correct")).await.unwrap();
        let hasher = Hasher::start(&support::settings().password).unwrap();
        assert!(hasher.verify(secret("correct"), Some(old.clone())).await.unwrap());
        assert!(hasher.is_outdated(&old));
    }

    #[tokio::test]
    async fn a_hash_that_we_cannot_have_written_is_a_failure_not_a_match() {
        let hasher = Hasher::start(&support::settings().password).unwrap();
        for text in ["", "plain", "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "$2b$12$abc"]
        {
            let verified = hasher.verify(secret("x"), Some(PasswordHash(text.into()))).await;
            assert_eq!(verified.unwrap_err().code(), Code::Internal, "{text}");
        }
    }

    #[tokio::test]
    async fn hashes_of_other_programs_fit_their_passwords_alone_and_are_outdated() {
        let hasher = Hasher::start(&support::settings().password).unwrap();
        for (password, text) in IMPORTED {
            let hash = hasher.accept(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(hasher.understands(&hash), "{text}");
            let ours = text.contains("argon2id$v=19$m=64,t=1,p=1$");
            assert_eq!(hasher.is_outdated(&hash), !ours, "{text}");
            let wrong = format!("{password}x");
            for (tried, fits) in [(*password, true), (&wrong, false), ("", false)] {
                let verified = hasher.verify(secret(tried), Some(hash.clone())).await;
                assert_eq!(verified.unwrap(), fits, "{text}: {tried}");
            }
        }
    }

    #[test]
    fn argon2_from_elsewhere_is_bounded() {
        let hasher = Hasher::start(&support::settings().password).unwrap();
        let refused = |text: &str| hasher.accept(text).unwrap_err();
        let tail = "$c2FsdHNhbHQ$Y3VyYWNhbyBjdXJhY2FvIGN1cmFjYW8";
        assert!(refused(&format!("$argon2id$v=19$m=1048576,t=1,p=1{tail}")).contains("1048576 KiB"));
        assert!(refused(&format!("$argon2id$v=19$m=65536,t=999,p=1{tail}")).contains("999 passes"));
        assert!(refused("$argon2id$v=19$m=64,t=1,p=1").contains("well-formed"));
        assert!(refused(&format!("$argon2d$v=19$m=64,t=1,p=1{tail}")).contains("no kind"));
    }

    #[tokio::test]
    async fn a_full_queue_is_an_answer_at_once() {
        let slow = Password { memory_kib: 8 * 1024, ..support::settings().password };
        let hasher = Hasher::start(&slow).unwrap();
        let mut refused = 0;
        for _ in 0..QUEUE_PER_THREAD * 2 {
            if let Some(answer) = hasher.hash(secret("x")).now_or_never() {
                assert_eq!(answer.unwrap_err().code(), Code::Overloaded);
                refused += 1;
            }
        }
        assert!(refused > 0);
    }
}
