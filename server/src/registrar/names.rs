//! The names of all devices that are enrolled: no two differ in case alone.
//!
//! Does not own the records that they are of. Invariants: a device is stored by `Registrar::store_enrolled` alone, which adds its
//! name; where nobody knows what became of a change, names are read anew.

use std::collections::HashMap;

use marey_engine::{Identity, StorageError};
use marey_format::DeviceId;

use super::RegistrarError;
use crate::identity;

/// Names by their lower case. Enrolling the last of 100,000 devices must not read the records of all the others.
#[derive(Debug)]
pub(super) struct Names(HashMap<Box<str>, Box<str>>);

impl Names {
    /// Those that are stored.
    pub fn read(stored: &Identity) -> Result<Self, StorageError> {
        let names = stored.keys(identity::KIND)?;
        Ok(Self(names.iter().map(|name| entry(name)).collect()))
    }

    /// Whether a device may be enrolled: no other has its name but for the case, and there is room, or it is there already.
    pub fn check(&self, device: &DeviceId) -> Result<(), RegistrarError> {
        let refused = |why| Err(RegistrarError::Refused(why));
        let (alike, name) = entry(device.as_str());
        match self.0.get(&alike) {
            Some(known) if *known == name => Ok(()),
            Some(known) => refused(format!(
                "{device} differs from the device {known} in case alone; some file systems can't hold both"
            )),
            None if self.0.len() >= DEVICES_MAX => {
                refused(format!("{DEVICES_MAX} devices are enrolled, which is the most"))
            }
            None => Ok(()),
        }
    }

    /// A device was enrolled.
    pub fn add(&mut self, device: &DeviceId) {
        self.0.extend([entry(device.as_str())]);
    }
}

fn entry(name: &str) -> (Box<str>, Box<str>) {
    (name.to_ascii_lowercase().into(), name.into())
}

/// Devices of one hub. Each handshake asks for one of them.
const DEVICES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).expect("a name")
    }

    #[test]
    fn the_last_place_is_taken_once_and_its_device_enrols_again() {
        let mut names = Names(HashMap::new());
        for number in 1..DEVICES_MAX {
            names.add(&device(&format!("n{number}")));
        }
        names.check(&device("Phone")).expect("one place is left");
        names.add(&device("Phone"));
        names.check(&device("Phone")).expect("it is there already");
        let refused = |name| names.check(&device(name)).expect_err(name).to_string();
        assert!(refused("phone").contains("the device Phone in case alone"));
        assert!(refused("watch").contains("100000 devices"));
    }
}
