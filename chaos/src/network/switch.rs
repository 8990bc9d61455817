//! The switch: takes packets from each interface and hands them to the one they are for.

use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;
use tokio_tun::Tun;

use super::links::{Exit, Inlet, Links};

/// The longest packet that the interface hands over.
const PACKET_BYTES: usize = 65_536;

/// Ends when it is dropped.
pub(super) struct Switch {
    _tasks: JoinSet<()>,
}

type Ports = BTreeMap<Ipv4Addr, (u32, Arc<Tun>)>;

impl Exit for Arc<Tun> {
    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        Tun::send(self, packet).await.map(drop)
    }
}

impl Switch {
    pub(super) fn new(ports: Ports, links: &Arc<Links>, seed: u64) -> Self {
        let mut tasks = JoinSet::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let ports = Arc::new(ports);
        for (from, tun) in ports.values() {
            let inlet = Inlet::new(links, &mut rng, &mut tasks);
            tasks.spawn(serve(*from, Arc::clone(tun), Arc::clone(&ports), inlet));
        }
        Self { _tasks: tasks }
    }
}

/// Passes on the packets of one member.
async fn serve(from: u32, tun: Arc<Tun>, ports: Arc<Ports>, mut inlet: Inlet<Arc<Tun>>) {
    let mut buffer = vec![0; PACKET_BYTES];
    while let Ok(length) = tun.recv(&mut buffer).await {
        let packet = &buffer[..length];
        // Packets for nobody here, such as what IPv6 says about itself, go nowhere.
        if let Some((to, tun)) = destination(packet).and_then(|to| ports.get(&to)) {
            inlet.pass((from, *to), packet, tun).await;
        }
    }
}

/// Whom a packet of IPv4 is for.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let header = packet.first_chunk::<20>()?;
    (header[0] >> 4 == 4).then(|| Ipv4Addr::new(header[16], header[17], header[18], header[19]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_whom_it_is_for() {
        let mut packet = [0; 28];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 200, 3, 2]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 200, 3, 2)));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
    }
}
