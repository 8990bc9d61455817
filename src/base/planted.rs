//! The way by which a mistake is planted in a core, to see that a simulation, or a chaos run of real
//! nodes, finds it.
//!
//! Compiled in only with the feature `planted-bugs`, which no default enables, and which does not
//! build without debug assertions, so in no release. Even then a core makes a mistake only if its
//! configuration names one; that of a node does as `OTTLA_PLANTED_BUG` says. Without the feature [`Planted::is`] is constantly false, and nothing of
//! this remains.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("planted-bugs breaks nodes on purpose: it is not for builds without assertions");

/// The mistake among those of `B` that a core makes on purpose, if any.
#[derive(Debug, Clone, Copy)]
pub struct Planted<B> {
    #[cfg(feature = "planted-bugs")]
    bug: Option<B>,
    #[cfg(not(feature = "planted-bugs"))]
    bug: std::marker::PhantomData<B>,
}

impl<B> Planted<B> {
    /// None.
    pub const NONE: Self = Self {
        #[cfg(feature = "planted-bugs")]
        bug: None,
        #[cfg(not(feature = "planted-bugs"))]
        bug: std::marker::PhantomData,
    };

    /// This one.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub const fn one(bug: B) -> Self {
        Self { bug: Some(bug) }
    }
}

impl<B: Copy> Planted<B> {
    /// The one of `all` that the process's environment names.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn of_process(all: &[(B, &'static str)]) -> Self {
        static TOLD: std::sync::Once = std::sync::Once::new();
        let wanted = std::env::var("OTTLA_PLANTED_BUG").unwrap_or_default();
        let Some((bug, name)) = all.iter().find(|(_, name)| *name == wanted) else {
            return Self::NONE;
        };
        TOLD.call_once(|| tracing::warn!(bug = name, "this node makes a mistake on purpose"));
        Self::one(*bug)
    }

    /// None.
    #[cfg(not(feature = "planted-bugs"))]
    #[must_use]
    pub const fn of_process(_: &[(B, &'static str)]) -> Self {
        Self::NONE
    }
}

impl<B: Copy + PartialEq> Planted<B> {
    /// Whether it is this one.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn is(self, bug: B) -> bool {
        self.bug == Some(bug)
    }

    /// Whether it is this one.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) const fn is(self, _: B) -> bool {
        false
    }
}
