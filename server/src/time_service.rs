//! The time service: answers time packets over UDP, and the same packets in-band.
//!
//! Owns the keys of live connections; a key dies with its connection. Keeps nothing of a packet, answers nothing that does
//! not pass, and never answers with more bytes than it was asked with, so that it can be used neither to learn nor to
//! amplify.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError, RwLock};

use marey_engine::time::{HubClock, HubInstant};
use marey_format::DeviceId;
use marey_format::clock::{Direction, PACKET_BYTES, PacketKey, StampKey, TimePacket};
use marey_format::types::KeyId;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// The keys of live connections.
pub struct TimeKeys {
    keys: RwLock<HashMap<u64, Entry>>,
    stamp_key: Arc<StampKey>,
    clock: Arc<dyn HubClock>,
}

#[derive(Clone)]
struct Entry {
    key: PacketKey,
    device: DeviceId,
}

/// A connection's key; dropping it ends the key's life.
pub struct TimeKey {
    keys: Arc<TimeKeys>,
    /// Names the key in packets.
    pub id: KeyId,
    /// The key itself, for the welcome.
    pub key: PacketKey,
}

/// The system has no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl TimeKeys {
    /// No keys yet.
    pub fn new(stamp_key: Arc<StampKey>, clock: Arc<dyn HubClock>) -> Arc<Self> {
        Arc::new(Self {
            keys: RwLock::default(),
            stamp_key,
            clock,
        })
    }

    /// Makes the key of a new connection.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn issue(self: &Arc<Self>, device: DeviceId) -> Result<TimeKey, NoRandomness> {
        let mut random = [0; 40];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| NoRandomness)?;
        Ok(self.enter(device, random))
    }

    /// Enters a key made of these bytes, which nobody can guess.
    pub(crate) fn enter(self: &Arc<Self>, device: DeviceId, random: [u8; 40]) -> TimeKey {
        let (id, key) = random.split_at(8);
        let id = u64::from_le_bytes(id.try_into().expect("eight bytes were split off"));
        let key = PacketKey(key.try_into().expect("32 bytes are left of 40"));
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(id, Entry { key, device });
        TimeKey {
            keys: self.clone(),
            id: KeyId(id),
            key,
        }
    }

    /// Keys that live now.
    pub fn count(&self) -> usize {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The reply to a datagram that came at `hub_recv`, if it passes.
    pub fn answer(&self, datagram: &[u8], hub_recv: HubInstant) -> Option<[u8; PACKET_BYTES]> {
        let id = TimePacket::key_id(datagram)?;
        let entry = self
            .keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()?;
        let request = TimePacket::parse(datagram, &entry.key)?;
        (request.direction == Direction::Request)
            .then(|| self.reply(&request, &entry.key, &entry.device, hub_recv))
    }

    /// The reply to a request that has passed, stamped now.
    pub fn reply(
        &self,
        request: &TimePacket,
        key: &PacketKey,
        device: &DeviceId,
        hub_recv: HubInstant,
    ) -> [u8; PACKET_BYTES] {
        let hub_send_ns = self.clock.now().ns;
        let (nonce, dev_send_ns) = (request.nonce, request.dev_send_ns);
        let tag = self.stamp_key.tag(
            device,
            hub_recv.epoch,
            nonce,
            dev_send_ns,
            hub_recv.ns,
            hub_send_ns,
        );
        let reply = TimePacket {
            direction: Direction::Reply,
            hub_epoch: hub_recv.epoch,
            hub_recv_ns: hub_recv.ns,
            hub_send_ns,
            tag,
            ..*request
        };
        reply.to_bytes(key)
    }

    fn forget(&self, id: u64) {
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }
}

impl fmt::Debug for TimeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeKeys")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

impl Drop for TimeKey {
    fn drop(&mut self) {
        self.keys.forget(self.id.0);
    }
}

impl fmt::Debug for TimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Answers until `stop` turns true. `count` is told of each answered probe.
pub async fn serve(
    socket: UdpSocket,
    keys: Arc<TimeKeys>,
    mut stop: watch::Receiver<bool>,
    count: impl Fn(),
) {
    // One byte more than a packet, so that longer ones are seen to be longer.
    let mut buffer = [0; PACKET_BYTES + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let hub_recv = keys.clock.now();
        match received {
            Ok((bytes, peer)) => {
                if let Some(reply) = keys.answer(&buffer[..bytes], hub_recv) {
                    // A reply that does not fit now would be late: it is dropped, like any datagram.
                    if socket.try_send_to(&reply, peer).is_ok() {
                        count();
                    }
                }
            }
            // What an earlier reply met: no one listens there any more.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => tracing::warn!(%error, "the time service could not receive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::time::simulated::SimulatedKernel;

    fn request(id: u64) -> TimePacket {
        TimePacket {
            direction: Direction::Request,
            key_id: id,
            nonce: 42,
            dev_send_ns: -5,
            hub_epoch: marey_format::HubEpoch(0),
            hub_recv_ns: 0,
            hub_send_ns: 0,
            tag: [0; 8],
        }
    }

    #[test]
    fn a_live_key_is_answered_and_a_dead_one_is_not() {
        let kernel = SimulatedKernel::new(7, 0);
        let clock = kernel.hub_clock();
        let stamp_key = Arc::new(StampKey([9; 32]));
        let keys = TimeKeys::new(stamp_key.clone(), clock.clone());
        let phone = DeviceId::new("phone").expect("a name");
        let key = keys.issue(phone.clone()).expect("random bytes");
        let packet = request(key.id.0).to_bytes(&key.key);
        let hub_recv = clock.now();
        kernel.advance(30);
        let reply = keys.answer(&packet, hub_recv).expect("it passes");
        assert_eq!(reply.len(), packet.len());
        let reply = TimePacket::parse(&reply, &key.key).expect("under the same key");
        assert_eq!(reply.direction, Direction::Reply);
        assert_eq!((reply.nonce, reply.dev_send_ns), (42, -5));
        let (came, went) = (hub_recv.ns, hub_recv.ns + 30);
        assert_eq!((reply.hub_recv_ns, reply.hub_send_ns), (came, went));
        assert_eq!(
            reply.tag,
            stamp_key.tag(&phone, hub_recv.epoch, 42, -5, came, went)
        );

        let other = keys.issue(phone).expect("random bytes");
        assert_ne!(other.key, key.key);
        let forged = request(key.id.0).to_bytes(&other.key);
        assert!(keys.answer(&forged, hub_recv).is_none());
        assert!(keys.answer(&packet[1..], hub_recv).is_none());
        assert!(
            keys.answer(&[packet.as_slice(), &[0]].concat(), hub_recv)
                .is_none()
        );
        let played_back = keys.answer(&packet, hub_recv).expect("it passes");
        assert!(
            keys.answer(&played_back, hub_recv).is_none(),
            "a reply is no request"
        );
        assert_eq!(keys.count(), 2);
        drop(key);
        assert!(
            keys.answer(&packet, hub_recv).is_none(),
            "the key died with its connection"
        );
        assert_eq!(keys.count(), 1);
    }

    #[test]
    fn it_answers_over_udp() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let keys = TimeKeys::new(
                Arc::new(StampKey([9; 32])),
                SimulatedKernel::new(7, 0).hub_clock(),
            );
            let key = keys
                .issue(DeviceId::new("phone").expect("a name"))
                .expect("random bytes");
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
            let at = socket.local_addr().expect("an address");
            let (stop, stopped) = watch::channel(false);
            let serving = tokio::spawn(serve(socket, keys.clone(), stopped, || {}));
            let device = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
            device.send_to(b"garbage", at).await.expect("sent");
            device
                .send_to(&request(key.id.0).to_bytes(&key.key), at)
                .await
                .expect("sent");
            let mut buffer = [0; 200];
            let (bytes, _) = device.recv_from(&mut buffer).await.expect("one reply");
            assert!(TimePacket::parse(&buffer[..bytes], &key.key).is_some());
            stop.send(true).expect("it listens");
            serving.await.expect("it ended");
        });
    }
}
