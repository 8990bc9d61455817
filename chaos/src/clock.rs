//! Wall clocks that are off, one per node.
//!
//! A library that comes along in this program is preloaded into each node (`LD_PRELOAD`), and adds
//! to the machine's wall clock what a file of the node says. Nothing of the node is made for that.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// The library, as `build.rs` made it.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clock.so"));

/// The clocks of a cluster's nodes.
#[derive(Debug)]
pub struct Clocks {
    directory: PathBuf,
}

impl Clocks {
    /// For nodes 1 to `count`, whose clocks are right at first.
    ///
    /// # Errors
    /// Where `directory` cannot be written.
    pub fn new(count: u32, directory: &Path) -> io::Result<Self> {
        let directory = directory.join("clocks");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("clock.so"), LIBRARY)?;
        let clocks = Self { directory };
        for node in 1..=count {
            fs::write(clocks.file(node), 0_i64.to_ne_bytes())?;
        }
        Ok(clocks)
    }

    fn file(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// How far off a node's clock is from now on.
    ///
    /// # Errors
    /// Where its file cannot be written.
    pub fn set(&self, node: u32, skew_ms: i64) -> io::Result<()> {
        // In place: the node has mapped it.
        let file = fs::File::options().write(true).open(self.file(node))?;
        file.write_all_at(&skew_ms.to_ne_bytes(), 0)
    }

    /// What a node's process must find in its environment.
    #[must_use]
    pub fn environment(&self, node: u32) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.directory.join("clock.so")), ("CHAOS_CLOCK", self.file(node))]
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ottla::base::{Clock as _, SystemClock};

    use super::*;

    /// What a process of a node takes the time to be, in seconds.
    fn now(clocks: &Clocks, node: u32) -> i64 {
        let output = Command::new("date").arg("+%s").envs(clocks.environment(node)).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_clock_is_off_for_its_node_alone_until_it_is_set_right() {
        let directory = tempfile::tempdir().unwrap();
        let clocks = Clocks::new(2, directory.path()).unwrap();
        let off = |node| now(&clocks, node) - SystemClock.wall_ms() / 1_000;
        clocks.set(1, -600_500).unwrap();
        assert!((-602..=-599).contains(&off(1)), "{}", off(1));
        assert!((-1..=5).contains(&off(2)), "{}", off(2));
        clocks.set(1, 0).unwrap();
        assert!((-1..=5).contains(&off(1)), "{}", off(1));
    }
}
