//! Stories: text files that say what happens to a cluster, and what came of it.
//!
//! A file begins with comments (`#`) and a line `voters N spare M seed S`; the seed decides the
//! election timeouts. Then come blocks: a command, a line `----`, and what was to be seen while it
//! was carried out, up to an empty line. Time is in milliseconds since the start, and none of it
//! varies; heartbeats are left out. Between commands every promise is checked as it is for random
//! seeds.
//!
//! | command | does |
//! |---|---|
//! | `run MS` | lets time pass |
//! | `write KEY at N`, `read KEY at N` | a client asks node N |
//! | `crash N`, `start N`, `wipe N` | a power cut; the node starts again; it loses its disk |
//! | `cut N M`, `isolate N`, `heal` | nothing passes from N to M; to and from N; all passes again |
//! | `join N at L`, `promote P at L`, `demote P at L`, `remove P at L` | node L is asked for that |
//! | `replace P by Q at L` | node L is asked to let learner Q take voter P's place |
//! | `transfer P at L` | node L is asked to hand over to peer P |

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, anyhow, bail, ensure};
use ottla::quorum::Change;

use crate::sim::{Failure, Sim};

/// Runs the story in `text` and returns it with what has happened.
///
/// # Errors
/// Where the text is no story, or a promise was broken.
pub fn retell(text: &str) -> anyhow::Result<String> {
    let mut told = String::new();
    let mut lines = text.lines();
    let mut sim = loop {
        let line = lines.next().context("a story begins with how many voters there are")?;
        let _ = writeln!(told, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["voters", voters, "spare", spare, "seed", seed] = words[..] {
            break Sim::scripted(voters.parse()?, spare.parse()?, seed.parse()?)?;
        }
    };
    let mut is_outcome = false;
    for line in lines {
        if is_outcome {
            is_outcome = !line.is_empty();
        } else if line == "----" {
            is_outcome = true;
        } else if !line.is_empty() {
            let seen = sim.trace.len();
            command(&mut sim, line).with_context(|| format!("in: {line}"))?;
            let _ = writeln!(told, "\n{line}\n----");
            for event in &sim.trace[seen..] {
                let _ = writeln!(told, "{event}");
            }
        }
    }
    Ok(told)
}

/// Compares the story in a file with what happens, or writes what happens into the file.
///
/// # Errors
/// Where they differ.
pub fn check(path: &Path, rewrite: bool) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let told = retell(&text).with_context(|| path.display().to_string())?;
    if rewrite {
        return Ok(std::fs::write(path, told)?);
    }
    let differs = text.lines().zip(told.lines()).position(|(was, is)| was != is);
    let line = differs.unwrap_or_else(|| text.lines().count().min(told.lines().count()));
    ensure!(
        text == told,
        "{}, line {}: the file says\n  {}\nand what happens is\n  {}\n(rewrite with: \
         cargo run -p raft-tests -- stories --rewrite {})",
        path.display(),
        line + 1,
        text.lines().nth(line).unwrap_or("(the end)"),
        told.lines().nth(line).unwrap_or("(the end)"),
        path.display(),
    );
    Ok(())
}

fn command(sim: &mut Sim, line: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| -> anyhow::Result<u64> { Ok(word.parse()?) };
    let host = |word: &str| -> anyhow::Result<usize> {
        let host = word.parse::<usize>()?.checked_sub(1).context("nodes count from 1")?;
        ensure!(host < sim.nodes.len(), "there is no node {word}");
        Ok(host)
    };
    let done = match words[..] {
        ["run", ms] => sim.pass(number(ms)?),
        ["write", key, "at", at] => sim.ask_write(host(at)?, key.parse()?),
        ["read", key, "at", at] => sim.ask_read(host(at)?, key.parse()?),
        ["crash", at] => sim.power_cut(host(at)?),
        ["start", at] => sim.power_on(host(at)?),
        ["wipe", at] => sim.lose(host(at)?),
        ["cut", from, to] => sim.cut(host(from)?, host(to)?),
        ["isolate", at] => sim.isolate(host(at)?),
        ["heal"] => sim.mend(),
        ["join", node, "at", at] => {
            let member = sim.nodes[host(node)?].member;
            sim.ask_change(host(at)?, Change::Join(member))
        }
        ["promote", peer, "at", at] => sim.ask_change(host(at)?, Change::Promote(number(peer)?)),
        ["demote", peer, "at", at] => sim.ask_change(host(at)?, Change::Demote(number(peer)?)),
        ["remove", peer, "at", at] => sim.ask_change(host(at)?, Change::Remove(number(peer)?)),
        ["replace", remove, "by", promote, "at", at] => {
            let (promote, remove) = (number(promote)?, number(remove)?);
            sim.ask_change(host(at)?, Change::Replace { promote, remove })
        }
        ["transfer", peer, "at", at] => sim.ask_transfer(host(at)?, number(peer)?),
        _ => bail!("no such command"),
    };
    done.map_err(|failure| match failure {
        Failure::Broken(violation) => anyhow!("{}: {}", violation.promise, violation.detail),
        Failure::Simulation(error) => error,
    })
}
