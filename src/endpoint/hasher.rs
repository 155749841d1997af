//! Argon2id (RFC 9106) on threads of its own, behind a bounded queue: however many sign in at once, so many hashes
//! are computed at a time, so much memory is used, and whoever does not fit is told at once.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::settings::Password;
use crate::answer::{Code, Problem};
use crate::store::PasswordHash;

/// Hashes that may wait for one thread: at about 21 ms each, under three seconds.
const QUEUE_PER_THREAD: usize = 128;
/// When to come back to a full queue, in seconds: it is empty by then.
const RETRY_AFTER: u64 = 3;
/// A hash in the store that asks for more than this was not written by us; computing it would be an attack.
const MEMORY_KIB_MAX: u32 = 4 * 1024 * 1024;

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
        for _ in 0..threads {
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

    /// Whether a hash was made with other parameters than those in force, and should be made anew.
    pub(super) fn is_outdated(&self, hash: &PasswordHash) -> bool {
        let params = |text| Phc::new(text).ok().and_then(|phc| Params::try_from(&phc).ok());
        params(&hash.0).is_none_or(|params: Params| {
            (params.m_cost(), params.t_cost(), params.p_cost())
                != (self.params.m_cost(), self.params.t_cost(), self.params.p_cost())
        })
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

/// `None` for a hash that this program cannot have written.
fn verify(password: &str, hash: &PasswordHash, ours: &Params, memory: &mut Vec<Block>) -> Option<bool> {
    let phc = Phc::new(&hash.0).ok()?;
    let params = Params::try_from(&phc).ok().filter(|params| params.m_cost() <= MEMORY_KIB_MAX)?;
    let algorithm = Algorithm::try_from(phc.algorithm.as_str()).ok()?;
    let version = Version::try_from(phc.version?).ok()?;
    let (salt, expected) = (phc.salt?, phc.hash?);
    let output = compute(password, &salt, algorithm, version, &params, memory)?;
    // A hash from before with more memory must not keep it for good.
    memory.truncate(ours.block_count());
    memory.shrink_to(ours.block_count());
    Some(output.ct_eq(expected.as_bytes()).into())
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
