//! What to run, and how it went.

use ottla::base::Planted;

use crate::check::Violation;

/// How much text of a run to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// None.
    None,
    /// What a reader needs to follow it.
    Story,
    /// Every event as well.
    All,
}

/// What to run. The mistakes are of `B`.
#[derive(Debug, Clone, Copy)]
pub struct Options<B> {
    /// Decides everything else.
    pub seed: u64,
    /// How many first voters, or replicas; by the seed if none.
    pub nodes: Option<usize>,
    /// How much text to keep.
    pub trace: Trace,
    /// A mistake that every core makes.
    pub bug: Planted<B>,
}

impl<B> Options<B> {
    /// The usual run of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, nodes: None, trace: Trace::None, bug: Planted::NONE }
    }
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<C> {
    /// The promise that was broken, if any.
    pub violation: Option<Violation>,
    /// Of all events.
    pub digest: u64,
    /// The text that was to be kept.
    pub trace: Vec<String>,
    /// What happened how often.
    pub counts: C,
}

/// Makes `Counts`, which says how often what happened, and adds up over runs.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// How often what happened in a run.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl std::ops::AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

pub(crate) use counts;
