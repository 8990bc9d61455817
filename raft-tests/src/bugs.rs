//! The mistakes that the simulations must find, planted one after the other.

#[cfg(feature = "planted-bugs")]
pub(crate) use self::hunt::all;

/// Refuses: a build without the feature makes no mistakes on purpose.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn all(_: u64, _: Option<&str>) -> anyhow::Result<()> {
    anyhow::bail!("the bugs are not compiled in: add --features planted-bugs")
}

#[cfg(feature = "planted-bugs")]
mod hunt {
    use std::ops::AddAssign;

    use anyhow::bail;
    use ottla::{base::Planted, quorum, replication};
    use raft_tests::{Options, Outcome, replica, run, sweep::sweep};

    /// What became of the mistakes.
    #[derive(Default)]
    struct Hunt<'a> {
        only: Option<&'a str>,
        seeds: u64,
        planted: usize,
        missed: Vec<&'static str>,
    }

    /// Plants each mistake, or only one, until a seed finds it, and prints a table of them.
    ///
    /// # Errors
    /// Where one is not found within `seeds` seeds.
    pub(crate) fn all(seeds: u64, only: Option<&str>) -> anyhow::Result<()> {
        let mut hunt = Hunt { only, seeds, ..Hunt::default() };
        println!(
            "{:<26} {:<8} {:>10} {:>11}  broken promise",
            "bug", "of", "found by", "seeds tried"
        );
        hunt.each("quorum", &quorum::core::Bug::ALL, |bug, seed| {
            run(Options { bug: Planted::one(bug), ..Options::new(seed) })
        });
        hunt.each("replica", &replication::Bug::ALL, |bug, seed| {
            replica::run(Options { bug: Planted::one(bug), ..Options::new(seed) })
        });
        if hunt.planted == 0 {
            bail!("there is no such bug");
        }
        if !hunt.missed.is_empty() {
            bail!("not found within {seeds} seeds: {}", hunt.missed.join(", "));
        }
        println!("{} of {} found", hunt.planted, hunt.planted);
        Ok(())
    }

    impl Hunt<'_> {
        fn each<B: Copy + Sync, C: Default + AddAssign + Send>(
            &mut self,
            of: &str,
            bugs: &[(B, &'static str)],
            one: impl Fn(B, u64) -> anyhow::Result<Outcome<C>> + Sync,
        ) {
            for (bug, name) in bugs.iter().filter(|(_, name)| self.only.is_none_or(|o| o == *name))
            {
                self.planted += 1;
                // Seeds are begun in their order and all ended, so the least that finds it is the
                // same in every run.
                let result = sweep(0..self.seeds, true, |seed| one(*bug, seed), |_| {});
                let (seed, tried, how) = match (result.broken.first(), result.error) {
                    (Some((seed, violation)), _) => {
                        (format!("seed {seed}"), seed + 1, violation.promise.to_owned())
                    }
                    (None, error) => {
                        self.missed.push(name);
                        ("none".to_owned(), result.seeds, error.unwrap_or_default())
                    }
                };
                println!("{name:<26} {of:<8} {seed:>10} {tried:>11}  {how}");
            }
        }
    }
}
