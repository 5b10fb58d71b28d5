//! The same verbs without a running hub: the folder is opened for as long as one request takes.

use std::path::Path;
use std::sync::Arc;

use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::HubClock;
use marey_engine::{Actor, AuditEvent, Options, Store};
use marey_format::UserId;
use marey_format::types::hex;

use super::verbs::Desk;
use super::{ControlClient, ControlError, Request, Response};
use crate::config::HubConfig;
use crate::people::{People, Secret};
use crate::permission::Role;
use crate::registrar::Registrar;

/// Asks the hub that runs in `hub_dir`; if none does, opens the folder and does what was asked right here.
///
/// # Errors
/// [`ControlError::Refused`] with one sentence, [`ControlError::Broken`].
pub fn ask(
    hub_dir: &Path,
    config: &HubConfig,
    clock: Arc<dyn HubClock>,
    request: &Request,
    mut progress: impl FnMut(&str),
) -> Result<Response, ControlError> {
    match ControlClient::connect(hub_dir) {
        Ok(mut client) => client.call(request, progress),
        Err(ControlError::NotRunning { .. }) => {
            offline(hub_dir, config, clock, request, &mut |text| progress(&text))
                .map_err(ControlError::Refused)
        }
        Err(other) => Err(other),
    }
}

fn offline(
    hub_dir: &Path,
    config: &HubConfig,
    clock: Arc<dyn HubClock>,
    request: &Request,
    progress: &mut dyn FnMut(String),
) -> Result<Response, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(hub_dir));
    let options = config.store_options(disk.as_ref()).map_err(|e| text(&e))?;
    let (store, _) = Store::open(disk, clock, options).map_err(|e| text(&e))?;
    let store = Arc::new(store);
    let listen = config.listen.clone();
    let registrar = Registrar::open(hub_dir, store.clone(), config, listen, false).map_err(|e| text(&e))?;
    store.sign_receipts(registrar.receipt_signer());
    let desk = Desk {
        store: &store,
        actor: this_user(),
        peer: None,
        hub_dir,
        registrar: &registrar,
        live: None,
    };
    let answer = desk.carry_out(request.clone(), progress);
    store.close().map_err(|e| text(&e))?;
    answer.map_err(|undone| text(&undone))
}

/// Gives a hub that was just made its first user, an admin, before anybody can ask for anything. Needs no authority.
///
/// # Errors
/// One sentence.
pub fn add_first_user(
    hub_dir: &Path,
    options: Options,
    clock: Arc<dyn HubClock>,
    user: &UserId,
    password: &Secret,
) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(hub_dir));
    let (store, _) = Store::open(disk, clock, options).map_err(|e| text(&e))?;
    let made = AuditEvent::new(this_user(), "hub.init").on(format!("hub/{}", hex(&store.hub_id())));
    store.audit(&made).map_err(|e| text(&e))?;
    let event = AuditEvent::new(this_user(), "user.add").on(format!("user/{user}"));
    let event = event.with("role", Role::Admin.as_str());
    store.audit(&event).map_err(|e| text(&e))?;
    let added = People::of(&store).add_user(user, Role::Admin, password);
    if let Err(error) = &added {
        super::audited::failed(&store, Some(event), &error.to_string());
    }
    store.close().map_err(|e| text(&e))?;
    added.map(|_| ()).map_err(|e| text(&e))
}

/// Whoever works on the folder while no hub runs.
fn this_user() -> Actor {
    Actor::Offline(rustix::process::geteuid().as_raw())
}
