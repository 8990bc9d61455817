//! Disks as a process sees them that is where they are.

use std::process::{Command, Output};

use rand::SeedableRng as _;

use super::*;

const NODE: u32 = 1;

/// Disks of one node; none without root's rights, which the suite reports as left out.
fn disks() -> Option<(tempfile::TempDir, Disks)> {
    let directory = tempfile::tempdir().unwrap();
    match Disks::new(1, directory.path()) {
        Ok(disks) => Some((directory, disks)),
        Err(error @ DiskError::Mount(_)) => {
            println!("left out: {error:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs a script where the disks are, in the first of them.
fn run(disks: &Disks, script: &str) -> Output {
    let place = &disks.disks[&(NODE, 1)].place;
    let script = format!("cd {} && {script}", place.display());
    let enter = disks.entering();
    Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", &script]).output().unwrap()
}

fn says(disks: &Disks, script: &str) -> String {
    let output = run(disks, script);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_what_was_synced_is_there_after_a_power_cut() {
    let Some((_directory, disks)) = disks() else { return };
    says(&disks, "mkdir logs && echo kept > logs/a && sync logs/a logs .");
    says(&disks, "echo more >> logs/a && echo lost > logs/b && sync logs/b");
    assert_eq!(says(&disks, "cat logs/*"), "kept\nmore\nlost\n");
    disks.cut_power(NODE, None).unwrap();
    assert_eq!(says(&disks, "cat logs/*; ls"), "kept\nlogs\n");
    disks.wipe(NODE).unwrap();
    assert_eq!(says(&disks, "ls"), "");
}

#[test]
fn a_sync_that_is_under_way_as_the_power_goes_does_not_count() {
    let Some((_directory, disks)) = disks() else { return };
    says(&disks, "echo kept > a && sync a .");
    disks.switch_off(NODE);
    assert!(!run(&disks, "echo more >> a").status.success());
    assert!(!run(&disks, "sync a").status.success());
    disks.cut_power(NODE, None).unwrap();
    assert_eq!(says(&disks, "cat a"), "kept\n");
}

#[test]
fn what_is_there_after_an_orderly_end_stays() {
    let Some((_directory, disks)) = disks() else { return };
    says(&disks, "echo kept > a");
    disks.settle(NODE).unwrap();
    disks.cut_power(NODE, None).unwrap();
    assert_eq!(says(&disks, "cat a"), "kept\n");
}

#[test]
fn a_disk_fills_up_fails_and_recovers() {
    let Some((_directory, disks)) = disks() else { return };
    says(&disks, "head -c 100000 /dev/urandom > a");
    disks.set(NODE, 1, Conditions { full: true, ..Conditions::default() });
    assert!(!run(&disks, "echo more > b").status.success());
    assert_eq!(says(&disks, "stat -f -c %a ."), "0\n");
    says(&disks, "sync a && cat a > /dev/null");
    disks.set(NODE, 1, Conditions { fails_writes: true, ..Conditions::default() });
    assert!(!run(&disks, "sync a").status.success());
    says(&disks, "cat a > /dev/null");
    disks.set(NODE, 1, Conditions { fails_reads: true, ..Conditions::default() });
    assert!(!run(&disks, "cat a > /dev/null").status.success());
    disks.set(NODE, 1, Conditions::default());
    says(&disks, "echo more > b && sync a && cat a > /dev/null");
}

#[test]
fn a_slow_disk_takes_its_time_to_sync() {
    let Some((_directory, disks)) = disks() else { return };
    says(&disks, "echo kept > a");
    let delay = Duration::from_millis(300);
    disks.set(NODE, 1, Conditions { delay, ..Conditions::default() });
    let begun = tokio::time::Instant::now();
    says(&disks, "sync a");
    assert!(begun.elapsed() >= delay);
}

#[test]
fn a_flipped_bit_is_read_and_all_files_are_left_in_the_end() {
    let Some((directory, disks)) = disks() else { return };
    says(&disks, "mkdir logs && head -c 5000 /dev/zero > logs/a && echo b > logs/b");
    let mut rng = StdRng::seed_from_u64(1);
    let (path, at) = disks.flip_bit(NODE, |path| path.ends_with("a"), &mut rng).unwrap().unwrap();
    assert!(path.ends_with("logs/a") && at < 5_000);
    assert_eq!(says(&disks, "tr -d '\\0' < logs/a | wc -c"), "1\n");
    disks.finish().unwrap();
    let left = Disks::place(directory.path(), NODE, 1).join("logs");
    assert_eq!(fs::read(left.join("b")).unwrap(), b"b\n");
    assert_eq!(fs::read(left.join("a")).unwrap().iter().filter(|it| **it != 0).count(), 1);
    assert!(!directory.path().join("disks/1-1").exists());
}

#[test]
fn files_can_be_mapped_sent_and_locked() {
    let Some((_directory, disks)) = disks() else { return };
    let script = "python3 -c \"
import fcntl, mmap, os
file = open('a', 'w+b')
file.write(b'bytes' * 10000)
file.flush()
assert mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:5] == b'bytes'
out = open('b', 'wb')
assert os.sendfile(out.fileno(), file.fileno(), 0, 50000) == 50000
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.lockf(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.posix_fallocate(file.fileno(), 0, 60000)
assert os.path.getsize('a') == 60000
\"";
    says(&disks, script);
}
