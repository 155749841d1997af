//! Which target a request goes to: health and load in, target out. Pure but for its own counters; allocates
//! nothing, and locks only for round robin with unequal weights.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderName};

use super::settings::{Balance, Target};

/// What a choice knows of a target at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// It may be chosen.
    pub(super) usable: bool,
    /// Requests under way.
    pub(super) load: usize,
}

/// Chooses among a fixed list of targets.
#[derive(Debug)]
pub(super) struct Balancer {
    kind: Kind,
    weights: Box<[u32]>,
    /// Turns for round robin, and the seed of the chances of the others.
    turn: AtomicU64,
}

#[derive(Debug)]
enum Kind {
    Turns,
    /// Smooth weighted round robin: the current weights.
    WeightedTurns(Mutex<Box<[i64]>>),
    Least,
    TwoChoices,
    /// Rendezvous: the hash of each target's name.
    Hash {
        by: By,
        names: Box<[u64]>,
    },
}

#[derive(Debug)]
enum By {
    Header(HeaderName),
    Subject,
}

impl Balancer {
    pub(super) fn new(balance: &Balance, targets: &[Target]) -> Self {
        let weights: Box<[u32]> = targets.iter().map(|target| target.weight.max(1)).collect();
        let names = || targets.iter().map(|target| hash(target.url.as_bytes())).collect();
        let kind = match balance {
            Balance::RoundRobin if weights.windows(2).all(|pair| pair[0] == pair[1]) => Kind::Turns,
            Balance::RoundRobin => Kind::WeightedTurns(Mutex::new(vec![0; weights.len()].into())),
            Balance::LeastRequests => Kind::Least,
            Balance::TwoChoices => Kind::TwoChoices,
            Balance::HashHeader(name) => Kind::Hash { by: By::Header(name.clone()), names: names() },
            Balance::HashSubject => Kind::Hash { by: By::Subject, names: names() },
        };
        Self { kind, weights, turn: AtomicU64::new(0) }
    }

    /// What a request is hashed by; `None` where it has no such header or subject, or where nothing is hashed.
    pub(super) fn key(&self, headers: &HeaderMap, subject: Option<&str>) -> Option<u64> {
        match &self.kind {
            Kind::Hash { by: By::Header(name), .. } => headers.get(name).map(|value| hash(value.as_bytes())),
            Kind::Hash { by: By::Subject, .. } => subject.map(|subject| hash(subject.as_bytes())),
            _ => None,
        }
    }

    /// A usable target, by its index; `None` where there is none. A request without a key is spread by two
    /// choices where others are hashed.
    pub(super) fn pick(&self, key: Option<u64>, view: impl Fn(usize) -> View) -> Option<usize> {
        if self.weights.len() == 1 {
            return view(0).usable.then_some(0);
        }
        match &self.kind {
            Kind::Turns => self.in_turn(view),
            Kind::WeightedTurns(current) => {
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                self.in_weighted_turn(&mut current, view)
            }
            Kind::Least => self.least(view),
            Kind::TwoChoices => self.two_choices(view),
            Kind::Hash { names, .. } => match key {
                Some(key) => self.rendezvous(names, key, view),
                None => self.two_choices(view),
            },
        }
    }

    fn in_turn(&self, view: impl Fn(usize) -> View) -> Option<usize> {
        let usable = || (0..self.weights.len()).filter(|&index| view(index).usable);
        let count = usable().count();
        if count == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count as u64;
        // Health may change between counting and choosing.
        usable().nth(turn as usize).or_else(|| usable().next())
    }

    /// Every usable target gains its weight; the one with the most is chosen and pays what all have gained. Over
    /// a whole cycle each is chosen as often as its weight says, and evenly spread.
    fn in_weighted_turn(&self, current: &mut [i64], view: impl Fn(usize) -> View) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (index, &weight) in self.weights.iter().enumerate() {
            if !view(index).usable {
                continue;
            }
            total += i64::from(weight);
            current[index] += i64::from(weight);
            if best.is_none_or(|best| current[index] > current[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        current[best] -= total;
        Some(best)
    }

    fn least(&self, view: impl Fn(usize) -> View) -> Option<usize> {
        // Begins at one chosen by chance and weight, so that idle targets share as their weights say.
        let mut best = self.by_chance(&view, None)?;
        let mut best_load = view(best).load;
        for index in 0..self.weights.len() {
            let View { usable, load } = view(index);
            if usable && self.lighter(index, load, best, best_load) {
                (best, best_load) = (index, load);
            }
        }
        Some(best)
    }

    fn two_choices(&self, view: impl Fn(usize) -> View) -> Option<usize> {
        let one = self.by_chance(&view, None)?;
        let Some(other) = self.by_chance(&view, Some(one)) else { return Some(one) };
        Some(if self.lighter(other, view(other).load, one, view(one).load) { other } else { one })
    }

    /// The target for which the key's score is highest: a target that goes takes only its own keys with it, and
    /// every gateway of a fleet chooses alike.
    fn rendezvous(&self, names: &[u64], key: u64, view: impl Fn(usize) -> View) -> Option<usize> {
        let score = |index: usize| {
            // In (0, 1), both ends left out; with −w / ln u a target's share is in proportion to its weight.
            let uniform = ((mix(key ^ names[index]) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
            -f64::from(self.weights[index]) / uniform.ln()
        };
        (0..self.weights.len())
            .filter(|&index| view(index).usable)
            .map(|index| (index, score(index)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map(|(index, _)| index)
    }

    /// Whether target `a` has less to do, for its weight, than `b`.
    fn lighter(&self, a: usize, load_a: usize, b: usize, load_b: usize) -> bool {
        (load_a as u128) * u128::from(self.weights[b]) < (load_b as u128) * u128::from(self.weights[a])
    }

    /// A usable target other than `except`, by chance in proportion to the weights.
    fn by_chance(&self, view: &impl Fn(usize) -> View, except: Option<usize>) -> Option<usize> {
        let usable = || {
            let all = self.weights.iter().enumerate();
            all.filter(|&(index, _)| Some(index) != except && view(index).usable)
        };
        let total: u64 = usable().map(|(_, &weight)| u64::from(weight)).sum();
        if total == 0 {
            return None;
        }
        let mut left = mix(self.turn.fetch_add(1, Ordering::Relaxed)) % total;
        for (index, &weight) in usable() {
            if left < u64::from(weight) {
                return Some(index);
            }
            left -= u64::from(weight);
        }
        // Health has changed while we counted.
        usable().next().map(|(index, _)| index)
    }
}

/// FNV-1a and a finisher: the same on every gateway and in every version, which the standard library's is not.
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// SplitMix64: neighbouring numbers become unrelated ones.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn balancer(balance: &Balance, weights: &[u32]) -> Balancer {
        let targets: Vec<Target> = weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| Target {
                url: format!("http://10.0.0.{index}").into(),
                authority: format!("10.0.0.{index}:80").parse().unwrap(),
                unix: None,
                tls: None,
                http2: false,
                weight,
            })
            .collect();
        Balancer::new(balance, &targets)
    }

    const ALL: [Balance; 5] = [
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::TwoChoices,
        Balance::HashSubject,
        Balance::HashHeader(http::header::COOKIE),
    ];

    fn idle(_: usize) -> View {
        View { usable: true, load: 0 }
    }

    /// How often each of three targets is chosen for `rounds` different keys.
    fn counts(balancer: &Balancer, rounds: u64, view: impl Fn(usize) -> View) -> Vec<u64> {
        let mut counts = vec![0; balancer.weights.len()];
        for round in 0..rounds {
            counts[balancer.pick(Some(mix(round)), &view).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(counts(&balancer(&Balance::RoundRobin, &[1, 1, 1]), 300, idle), [100, 100, 100]);
    }

    #[test]
    fn weighted_round_robin_is_exact_over_a_cycle_and_smooth() {
        let balancer = balancer(&Balance::RoundRobin, &[5, 1, 1]);
        let order: Vec<usize> = (0..7).map(|_| balancer.pick(None, idle).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn idle_targets_share_as_their_weights_say() {
        for balance in &ALL {
            let counts = counts(&balancer(balance, &[1, 2, 1]), 40_000, idle);
            for (count, share) in counts.iter().zip([10_000, 20_000, 10_000_u64]) {
                assert!(count.abs_diff(share) < share / 10, "{balance:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_target_that_goes_leaves_its_share_to_all_the_others() {
        for balance in &ALL {
            let counts = counts(&balancer(balance, &[1, 1, 1, 1]), 30_000, |index| View {
                usable: index != 1,
                load: 0,
            });
            assert_eq!(counts[1], 0);
            for index in [0, 2, 3] {
                assert!(counts[index].abs_diff(10_000) < 1_000, "{balance:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn least_requests_finds_the_least_for_its_weight() {
        let balancer = balancer(&Balance::LeastRequests, &[1, 4, 1]);
        let loads = [2, 7, 3];
        for _ in 0..100 {
            let picked = balancer.pick(None, |index| View { usable: true, load: loads[index] });
            assert_eq!(picked, Some(1));
        }
    }

    #[test]
    fn two_choices_never_takes_the_busiest_of_three() {
        let loads = [5, 9, 1];
        let counts = counts(&balancer(&Balance::TwoChoices, &[1, 1, 1]), 3_000, |index| View {
            usable: true,
            load: loads[index],
        });
        assert_eq!(counts[1], 0);
        assert!(counts[2] > counts[0] && counts[0] > 0, "{counts:?}");
    }

    #[test]
    fn a_hash_holds_its_target_and_moves_only_the_keys_of_one_that_goes() {
        let balancer = balancer(&Balance::HashSubject, &[1, 3, 1, 1]);
        let headers = HeaderMap::new();
        for number in 0..1_000 {
            let key = balancer.key(&headers, Some(&format!("user-{number}")));
            let before = balancer.pick(key, idle).unwrap();
            assert_eq!(balancer.pick(key, idle), Some(before));
            let without = |gone| balancer.pick(key, |index| View { usable: index != gone, load: 0 }).unwrap();
            for gone in 0..4 {
                assert_eq!(without(gone) == before, gone != before);
            }
        }
    }

    #[test]
    fn a_hash_is_the_same_in_every_version() {
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash(b"user-1"), 0xf16d_8d44_0fbb_25d5);
    }

    #[test]
    fn a_request_without_a_key_is_spread() {
        let balancer = balancer(&Balance::HashHeader(http::header::COOKIE), &[1, 1]);
        assert_eq!(balancer.key(&HeaderMap::new(), Some("subject")), None);
        let picked: std::collections::HashSet<_> =
            (0..100).map(|_| balancer.pick(None, idle).unwrap()).collect();
        assert_eq!(picked.len(), 2);
    }

    proptest! {
        #[test]
        fn only_usable_targets_are_chosen_and_one_is_whenever_there_is_one(
            targets in prop::collection::vec((1_u32..1000, any::<bool>(), 0_usize..50), 1..9),
            key in any::<Option<u64>>(),
            kind in 0_usize..5,
        ) {
            let weights: Vec<u32> = targets.iter().map(|target| target.0).collect();
            let balancer = balancer(&ALL[kind], &weights);
            let view = |index: usize| View { usable: targets[index].1, load: targets[index].2 };
            for _ in 0..5 {
                match balancer.pick(key, view) {
                    Some(index) => prop_assert!(targets[index].1),
                    None => prop_assert!(targets.iter().all(|target| !target.1)),
                }
            }
        }
    }
}
