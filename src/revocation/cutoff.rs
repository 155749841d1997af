//! What "now" means as a cutoff (CONTRACT §1).

use super::Kind;
use crate::clock::UnixTime;

/// The cutoff that `"now"` stands for; `None` for the kinds that have none.
///
/// `iat` counts whole seconds, so the second of `now` is blurred. It is rounded up, and a token of that very second
/// is refused, except for a `subject` of the gateway's `own` issuer: there it is rounded down, and **the caller
/// revokes every live session of that subject in the same batch**, and every token of that second that belongs to no
/// session, which takes the tokens issued in that second before now, while a login in the same second afterwards works.
pub const fn cutoff_now(kind: &Kind, own: bool, now: UnixTime) -> Option<UnixTime> {
    match kind {
        Kind::Token | Kind::Session => None,
        Kind::Subject if own => Some(UnixTime::from_secs(now.secs())),
        _ => Some(UnixTime::from_secs(now.secs().saturating_add(1))),
    }
}

/// Whether a cutoff refuses a token issued at `issued_at`: those issued before it, exactly.
pub const fn cutoff_refuses(issued_before: UnixTime, issued_at: UnixTime) -> bool {
    issued_at.millis() < issued_before.millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_000_000;

    fn refuses(kind: &Kind, own: bool, now_millis: u64, iat: u64) -> bool {
        let cutoff = cutoff_now(kind, own, UnixTime::from_millis(now_millis)).unwrap();
        cutoff_refuses(cutoff, UnixTime::from_secs(iat))
    }

    #[test]
    fn now_refuses_a_token_of_that_very_second() {
        for kind in [Kind::Subject, Kind::Client, Kind::Key, Kind::Issuer, Kind::Claim("tenant".into())] {
            for millis in [0, 1, 500, 999] {
                assert!(refuses(&kind, false, NOON * 1000 + millis, NOON), "{kind} {millis}");
                assert!(!refuses(&kind, false, NOON * 1000 + millis, NOON + 1), "{kind} {millis}");
            }
        }
        assert!(refuses(&Kind::Client, true, NOON * 1000, NOON), "only a subject of our own is rounded down");
    }

    #[test]
    fn an_own_subject_may_sign_in_again_in_the_same_second() {
        for millis in [0, 1, 999] {
            assert!(!refuses(&Kind::Subject, true, NOON * 1000 + millis, NOON));
            assert!(refuses(&Kind::Subject, true, NOON * 1000 + millis, NOON - 1));
        }
    }

    #[test]
    fn tokens_and_sessions_have_no_cutoff() {
        assert_eq!(cutoff_now(&Kind::Token, true, UnixTime::from_secs(NOON)), None);
        assert_eq!(cutoff_now(&Kind::Session, false, UnixTime::from_secs(NOON)), None);
    }

    #[test]
    fn an_explicit_cutoff_is_taken_exactly() {
        let at = UnixTime::from_millis(NOON * 1000 + 250);
        assert!(cutoff_refuses(at, UnixTime::from_millis(NOON * 1000 + 249)));
        assert!(!cutoff_refuses(at, at));
    }
}
