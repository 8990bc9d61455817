//! Ten thousand clients that say nothing, against a node on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use common::{LONG, frame, serve};
use kafka_protocol::messages::ApiVersionsRequest;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

const CONNECTIONS: usize = 10_000;
/// What an idle connection may take of the node's memory.
const EACH_BYTES: usize = 8 << 10;
/// Tells the process that holds the clients' ends where the node is.
const ADDRESS: &str = "OTTLA_TEST_ADDRESS";
/// What it prints once all are open.
const OPEN: &str = "all connections are open";

/// Allows for as many descriptors as the system lets this process have.
fn descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.unwrap_or(u64::MAX)
}

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// A process that holds the clients' ends, so that each has descriptors of its own. It ends with
/// its standard input, and so with the test.
struct Clients {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Clients {
    fn start(address: &str) -> Self {
        let holder =
            ["--ignored", "--exact", "holds_connections_for_the_other_test", "--nocapture"];
        let mut process = Command::new(env::current_exe().unwrap())
            .args(holder)
            .env(ADDRESS, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn wait_until_open(&mut self) {
        let mut lines = self.output.by_ref().lines();
        assert!(lines.any(|line| line.unwrap().contains(OPEN)), "not all connections were opened");
    }

    /// Ends it; returns whether the node had closed every connection before.
    fn end(mut self) -> bool {
        drop(self.process.stdin.take());
        io::copy(&mut self.output, &mut io::sink()).unwrap();
        self.process.wait().unwrap().success()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "the other test runs it in a process of its own"]
fn holds_connections_for_the_other_test() {
    let Ok(address) = env::var(ADDRESS) else { return };
    descriptors();
    let request = frame(&ApiVersionsRequest::default(), 0);
    let open = |number: usize| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // Half of them are served before they fall silent.
        if number.is_multiple_of(2) {
            stream.write_all(&request).unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut body).unwrap();
        }
        stream
    };
    let connections: Vec<_> = (0..CONNECTIONS).map(open).collect();
    writeln!(io::stdout(), "{OPEN}").unwrap();
    let _ = io::stdin().read(&mut [0]);
    for mut stream in connections {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a stopped node sends nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    let needed = CONNECTIONS as u64 + 200;
    if descriptors() < needed {
        // Past the capture of the test's output, so that it shows.
        writeln!(io::stderr(), "skipped: {needed} descriptors are needed (ulimit -Hn)").unwrap();
        return;
    }
    let served = serve().await;
    served.assert_serves().await;
    let before = resident_bytes();
    let mut clients = Clients::start(&served.address);
    // The node runs on the runtime's workers, which this does not hold up.
    clients.wait_until_open();
    let asked = Instant::now();
    served.assert_serves().await;
    assert!(asked.elapsed() < Duration::from_secs(1), "it took {:?}", asked.elapsed());
    let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
    writeln!(io::stderr(), "an idle connection takes {each} bytes").unwrap();
    assert!(each <= EACH_BYTES, "an idle connection takes {each} bytes");
    served.node.stop().await.unwrap();
    assert!(clients.end(), "some connections stayed open");
}
