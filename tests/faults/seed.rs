//! Randomness that can be had again: every test prints its seed.

/// Takes the place of the random seed.
const VARIABLE: &str = "PORTCULLIS_TEST_SEED";

/// SplitMix64: small, fast, and good enough to choose what happens next.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// From the environment, or drawn; says which.
    pub(crate) fn new() -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE} is not a number: {text}")),
            Err(_) => getrandom::u64().unwrap(),
        };
        println!("the seed is {seed}; have it again with {VARIABLE}={seed}");
        Self(seed)
    }

    /// Another one, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Any of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
