//! Places for connections that speak HTTP: so many in all, and of them only a part for one address, so that nobody takes them
//! all without saying a word.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::listener::group;

/// The places of a hub.
#[derive(Debug)]
pub(crate) struct Places {
    most: u32,
    taken: Mutex<HashMap<IpAddr, u32>>,
}

/// One of them. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection of this address; none if all are taken, or too many by that address.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = group(peer);
        let mut taken = self.taken();
        let all: u32 = taken.values().sum();
        let of_address = taken.get(&address).copied().unwrap_or(0);
        if all >= self.most || of_address >= of_one_address(self.most) {
            return None;
        }
        taken.insert(address, of_address + 1);
        Some(Place {
            places: self.clone(),
            address,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.address) {
            Some(of_address) if *of_address > 1 => *of_address -= 1,
            _ => _ = taken.remove(&self.address),
        }
    }
}

/// An eighth; a browser has six connections, so that it is never less than eight.
fn of_one_address(most: u32) -> u32 {
    (most / 8).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let places = Places::new(80);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut of_one: Vec<_> = (0..11).map(|_| places.take(address(1))).collect();
        assert_eq!(of_one.iter().flatten().count(), 10);
        let of_others: Vec<_> = (2..20)
            .flat_map(|last| {
                [
                    places.take(address(last)),
                    places.take(address(last)),
                    places.take(address(last)),
                ]
            })
            .flatten()
            .collect();
        assert_eq!(of_others.len(), 54);
        let rest: Vec<_> = (20..50).filter_map(|last| places.take(address(last))).collect();
        assert_eq!(rest.len(), 16, "and there are no more than there are");
        of_one.truncate(9);
        assert!(places.take(address(60)).is_some());
        drop((of_one, of_others, rest));
        assert!(places.taken().is_empty());
    }

    #[test]
    fn a_small_hub_has_room_for_a_browser() {
        let places = Places::new(4);
        let taken: Vec<_> = (0..5)
            .filter_map(|_| places.take(IpAddr::from([127, 0, 0, 1])))
            .collect();
        assert_eq!(taken.len(), 4);
    }
}
