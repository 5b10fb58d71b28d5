//! Who gets in and who does not, over time that is moved by hand.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Actor, AuditOutcome, AuditRecord, Options, Store, audit};
use marey_format::{KeyName, StudyId, UserId};

use super::record::{self, ATTEMPTS, Attempts, USER, User};
use super::{Door, People, Secret};
use crate::api::{Access, Denied, Issued};
use crate::metrics::Metrics;
use crate::permission::{DATA_EXPORT, DATA_VIEW, DEVICE_MANAGE, Role, SESSION_CREATE};
use crate::tally::Tally;

const MINUTE_NS: i64 = 60_000_000_000;
const PASSWORD: &str = "correct horse battery";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct House {
    kernel: SimulatedKernel,
    disk: Arc<dyn Disk>,
    store: Arc<Store>,
    door: Arc<Door>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
}

fn options() -> Options {
    Options {
        disk_floor_bytes: Some(0),
        ..Options::default()
    }
}

impl House {
    fn new() -> Self {
        let kernel = SimulatedKernel::new(1, 1_795_248_000_000_000_000);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        Store::init(&disk, [1; 16], &options()).expect("a store");
        let house = Self::on(kernel, disk);
        house.add("ada", Role::Admin);
        house.add("vic", Role::Viewer);
        house
    }

    fn on(kernel: SimulatedKernel, disk: Arc<dyn Disk>) -> Self {
        let (store, _) = Store::open(disk.clone(), kernel.hub_clock(), options()).expect("open");
        let store = Arc::new(store);
        let (tally, metrics) = (Tally::new(store.clone()), Arc::new(Metrics::default()));
        let door = Door::new(store.clone(), tally.clone(), metrics.clone(), 480);
        Self {
            kernel,
            disk,
            store,
            door,
            tally,
            metrics,
        }
    }

    /// The hub ends; its disk and the machine's clock go on.
    fn end(self) -> (SimulatedKernel, Arc<dyn Disk>) {
        self.store.close().expect("closed");
        (self.kernel.clone(), self.disk.clone())
    }

    /// The hub is started again.
    fn again(self) -> Self {
        let (kernel, disk) = self.end();
        Self::on(kernel, disk)
    }

    fn people(&self) -> People<'_> {
        People::of(&self.store)
    }

    fn add(&self, name: &str, role: Role) {
        self.people()
            .add_user(&user(name), role, &Secret::new(PASSWORD))
            .expect("added");
    }

    fn login(&self, name: &str, password: &str) -> Result<Issued, Denied> {
        self.door.login(name, password, HERE)
    }

    fn token(&self, name: &str) -> String {
        self.login(name, PASSWORD)
            .map_err(|e| format!("{e:?}"))
            .expect("a token")
            .token
    }

    fn may(&self, token: &str, permission: &'static str, study: Option<&str>) -> bool {
        match self.door.authorize(token, HERE, permission, study) {
            Ok(_) => true,
            Err(Denied::Lacks(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn is_known(&self, token: &str) -> bool {
        match self.door.identify(token, HERE) {
            Ok(_) => true,
            Err(Denied::Unknown) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn records(&self) -> Vec<AuditRecord> {
        self.tally.write(true);
        let mut records = Vec::new();
        audit::read(&*self.disk, 1, &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .expect("read");
        records
    }

    /// Failed logins in a row, and the last answer.
    fn fail(&self, name: &str, times: usize) -> Option<Denied> {
        let mut answer = None;
        for _ in 0..times {
            answer = self.login(name, "wrong password").err();
        }
        answer
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn study(name: &str) -> StudyId {
    StudyId::new(name).expect("a name")
}

#[test]
fn five_failures_lock_for_half_an_hour_through_a_restart() {
    let house = House::new();
    assert_eq!(house.fail("vic", 4), Some(Denied::Login));
    assert!(house.login("vic", PASSWORD).is_ok(), "four are forgiven");
    assert_eq!(house.fail("vic", 5), Some(Denied::Login));
    assert_eq!(house.login("vic", PASSWORD).err(), Some(Denied::Login), "locked");
    assert!(house.login("ada", PASSWORD).is_ok(), "others are not");
    let house = house.again();
    house.kernel.advance(29 * MINUTE_NS);
    assert_eq!(house.login("vic", PASSWORD).err(), Some(Denied::Login));
    // Attempts while it is locked make it no longer.
    house.kernel.advance(MINUTE_NS);
    assert!(house.login("vic", PASSWORD).is_ok());
    // After a reboot the wall clock decides; one that was set back does not open, one that runs does.
    house.fail("vic", 5);
    house.kernel.reboot(2, 10 * MINUTE_NS, -60 * MINUTE_NS);
    assert_eq!(house.login("vic", PASSWORD).err(), Some(Denied::Login));
    house.people().unlock_user(&user("vic")).expect("unlocked");
    assert!(
        house.login("vic", PASSWORD).is_ok(),
        "somebody who may can end it"
    );
    let text = house.metrics.render(&Default::default());
    assert!(
        text.contains("marey_sign_ins_total{result=\"locked\"} 2"),
        "{text}"
    );
}

#[test]
fn who_is_unknown_is_answered_as_who_is_known() {
    let house = House::new();
    let answers = |name: &str| -> Vec<Option<Denied>> {
        (0..7)
            .map(|_| house.login(name, "wrong password").err())
            .collect()
    };
    assert_eq!(answers("nobody"), answers("vic"));
    // What is remembered of both is the same, but for whose it is.
    let attempts = record::list::<Attempts>(&house.store, ATTEMPTS).expect("read");
    let mut seen: Vec<_> = attempts
        .into_iter()
        .map(|(key, found)| {
            assert!(
                key.len() == 64 && !key.contains("nobody"),
                "a name is kept as its hash"
            );
            (found.user, found.failures)
        })
        .collect();
    seen.sort();
    assert_eq!(seen, [(None, 5), (Some("vic".to_owned()), 5)]);
    let records = house.records();
    let said = format!("{records:?}");
    assert!(!said.contains(PASSWORD) && !said.contains("nobody"), "{said}");
    let refused: Vec<_> = records
        .iter()
        .filter(|record| record.outcome == AuditOutcome::Denied)
        .map(|record| {
            (
                record.action.as_str(),
                record.object.as_deref(),
                record.details["why"].as_str(),
            )
        })
        .collect();
    for expected in [
        ("user.login", Some("user/vic"), Some("wrong password")),
        ("user.login", None, Some("no such user")),
        ("user.login", Some("user/vic"), Some("locked")),
        (
            "user.lock",
            Some("user/vic"),
            Some("too many failures: locked for half an hour"),
        ),
    ] {
        assert!(refused.contains(&expected), "{expected:?} in {refused:?}");
    }
    // A name that comes to be somebody's is not locked by what strangers did.
    house.add("nobody", Role::Viewer);
    assert!(house.login("nobody", PASSWORD).is_ok());
}

#[test]
fn a_flood_of_invented_names_makes_no_hub_forget_who_tried_a_users() {
    let house = House::new();
    house.fail("vic", 5);
    let now = record::Mark::of(&house.store.clock().wall());
    house
        .store
        .identity()
        .transact(|entries| {
            for n in 0..1_500 {
                let attempts = Attempts {
                    v: 1,
                    user: None,
                    failures: 1,
                    last: now,
                };
                record::put(entries, ATTEMPTS, &format!("{n:064}"), &attempts)?;
            }
            Ok::<_, super::PeopleError>(())
        })
        .expect("written");
    house.fail("invented", 1);
    let attempts = record::list::<Attempts>(&house.store, ATTEMPTS).expect("read");
    assert_eq!(
        attempts.iter().filter(|(_, found)| found.user.is_none()).count(),
        1_000
    );
    assert_eq!(house.login("vic", PASSWORD).err(), Some(Denied::Login));
    house.kernel.advance(31 * MINUTE_NS);
    house.fail("invented", 1);
    let left = record::list::<Attempts>(&house.store, ATTEMPTS).expect("read");
    assert_eq!(left.len(), 1, "what is over goes");
}

#[test]
fn tokens_end_with_their_time_and_with_whatever_they_stood_on() {
    let house = House::new();
    let token = house.token("vic");
    assert!(house.is_known(&token) && !house.is_known("marey_token_00") && !house.is_known(""));
    house.kernel.advance(479 * MINUTE_NS);
    let house = house.again();
    assert!(house.is_known(&token), "a restart ends no token");
    house.kernel.advance(MINUTE_NS);
    assert!(!house.is_known(&token), "eight hours do");

    let people = || house.people();
    let vic = user("vic");
    let ends: [(&str, &dyn Fn()); 5] = [
        ("logout", &|| {
            house.door.logout(&house.token("vic"), HERE).expect("out")
        }),
        ("password", &|| {
            people().set_password(&vic, &Secret::new(PASSWORD)).expect("set");
        }),
        ("role", &|| {
            people().set_role(&vic, Role::Analyst).expect("set");
        }),
        ("revoke", &|| {
            people().end_tokens(&vic).expect("ended");
        }),
        ("lock", &|| {
            people().lock_user(&vic).expect("locked");
        }),
    ];
    for (what, end) in ends {
        let token = house.token("vic");
        end();
        // A logout ends the one token that is shown, all else every token of the user.
        assert_eq!(house.is_known(&token), what == "logout", "{what}");
    }
    assert_eq!(house.login("vic", PASSWORD).err(), Some(Denied::Login));
    people().unlock_user(&vic).expect("unlocked");
    let token = house.token("vic");
    people().remove_user(&vic).expect("removed");
    assert!(!house.is_known(&token));
    // The same name is somebody else.
    house.add("vic", Role::Viewer);
    assert!(!house.is_known(&token));
    let one = house.token("vic");
    let listed = people().tokens(Some(&vic)).expect("listed");
    assert_eq!(listed.len(), 1);
    assert!(!one.contains(&listed[0].token), "what is listed opens nothing");
    assert_eq!(people().end_token(&listed[0].token).expect("ended"), 1);
    assert!(!house.is_known(&one));
    assert!(people().end_token("zz").is_err() && people().end_token(&listed[0].token).is_err());
}

#[test]
fn whoever_logged_in_sets_their_own_password_and_logs_in_again() {
    let house = House::new();
    let (token, new) = (house.token("vic"), Secret::new("another horse battery"));
    let set = |token: &str, old: &str, new: &Secret| house.door.set_password(token, old, new, HERE);
    assert_eq!(set("marey_token_0", PASSWORD, &new), Err(Denied::Unknown));
    assert!(matches!(
        set(&token, PASSWORD, &Secret::new("short")),
        Err(Denied::Refused(_))
    ));
    assert_eq!(set(&token, "wrong password", &new), Err(Denied::Login));
    assert!(house.is_known(&token));
    assert_eq!(set(&token, PASSWORD, &new), Ok(()));
    assert!(
        !house.is_known(&token),
        "every token ends, the one that was shown too"
    );
    assert_eq!(house.people().tokens(None).expect("listed"), []);
    assert!(house.login("vic", PASSWORD).is_err() && house.login("vic", new.tell()).is_ok());
    // A token that was stolen is no way to guess on.
    let token = house.login("vic", new.tell()).map_err(|_| ()).expect("in").token;
    (0..5).for_each(|_| assert_eq!(set(&token, "wrong password", &new), Err(Denied::Login)));
    assert_eq!(set(&token, new.tell(), &new), Err(Denied::Login), "locked");
    let key = house
        .people()
        .create_key(&user("ada"), &KeyName::new("k").expect("a name"), None, None)
        .expect("a key");
    assert!(matches!(
        set(key.secret.tell(), PASSWORD, &new),
        Err(Denied::Lacks(_))
    ));
    let changed = house
        .records()
        .into_iter()
        .filter(|record| record.action == "user.password");
    assert_eq!(changed.count(), 1);
}

#[test]
fn no_secret_stands_in_the_store() {
    let house = House::new();
    let token = house.token("vic");
    let key = house
        .people()
        .create_key(
            &user("vic"),
            &KeyName::new("nightly").expect("a name"),
            None,
            None,
        )
        .expect("a key");
    for entry in house.store.identity().dump().expect("dumped") {
        let text = format!("{} {}", entry.key, String::from_utf8_lossy(&entry.value));
        for secret in [
            PASSWORD,
            &token,
            key.secret.tell(),
            &token[12..],
            &key.secret.tell()[10..],
        ] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let said = format!("{:?}", house.records());
    assert!(!said.contains(&token[12..]) && !said.contains(PASSWORD));
}

#[test]
fn grants_let_into_one_study_and_no_other() {
    let house = House::new();
    let (vic, token) = (user("vic"), house.token("vic"));
    assert!(house.may(&token, DATA_VIEW, Some("default")) && !house.may(&token, DATA_VIEW, Some("gait")));
    assert!(
        house
            .people()
            .grant(&study("gait"), &vic, Role::Researcher)
            .is_err(),
        "it is not there yet"
    );
    house
        .people()
        .create_study(&study("gait"), "how they walk")
        .expect("made");
    assert!(
        house.people().create_study(&study("Gait"), "").is_err(),
        "a name that differs in case alone"
    );
    assert!(house.people().create_study(&study("default"), "").is_err());
    house
        .people()
        .grant(&study("gait"), &vic, Role::Researcher)
        .expect("granted");
    assert!(house.people().grant(&study("gait"), &vic, Role::Admin).is_err());
    // At once, with the token that there is.
    assert!(house.may(&token, SESSION_CREATE, Some("gait")) && house.may(&token, SESSION_CREATE, None));
    assert!(
        !house.may(&token, SESSION_CREATE, Some("default")) && !house.may(&token, DATA_VIEW, Some("sleep"))
    );
    assert!(!house.may(&token, DEVICE_MANAGE, None));
    house.people().ungrant(&study("gait"), &vic).expect("out");
    assert!(!house.may(&token, DATA_VIEW, Some("gait")));
    assert!(house.people().ungrant(&study("gait"), &vic).is_err());
    assert!(
        house.may(&house.token("ada"), SESSION_CREATE, Some("gait")),
        "an admin is everywhere"
    );
    let denied = house
        .records()
        .into_iter()
        .filter(|record| record.actor == "user:vic");
    let denied: Vec<_> = denied
        .filter(|record| record.outcome == AuditOutcome::Denied)
        .map(|record| {
            (
                record.action.clone(),
                record.object.clone(),
                record.details["count"].as_u64(),
            )
        })
        .collect();
    assert!(
        denied.contains(&("data.view".into(), Some("study/gait".into()), Some(2))),
        "{denied:?}"
    );
    assert!(
        denied.contains(&("device.manage".into(), None, Some(1))),
        "{denied:?}"
    );
}

#[test]
fn a_key_may_what_its_user_may_or_less_and_ends() {
    let house = House::new();
    let (vic, name) = (user("vic"), |name: &str| KeyName::new(name).expect("a name"));
    let people = || house.people();
    let only = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let key = |n: &str, only: Option<Vec<String>>, days| {
        let made = people().create_key(&vic, &name(n), only.as_deref(), days);
        made.expect("a key").secret.tell().to_owned()
    };
    let all = key("all", None, None);
    let view = key("view", only(&[DATA_VIEW]), Some(2));
    assert!(house.may(&all, DATA_VIEW, None) && !house.may(&all, DATA_EXPORT, None));
    people().set_role(&vic, Role::Analyst).expect("set");
    assert!(
        house.may(&all, DATA_EXPORT, None),
        "a key goes on as its user is now"
    );
    assert!(house.may(&view, DATA_VIEW, None) && !house.may(&view, DATA_EXPORT, None));
    let who = house.door.identify(&view, HERE).expect("known");
    assert_eq!(
        who.actor,
        Actor::Key {
            user: "vic".into(),
            key: "view".into()
        }
    );
    assert_eq!(
        house.login("vic", &view).err(),
        Some(Denied::Login),
        "a key is no password"
    );
    assert!(matches!(house.door.logout(&view, HERE), Err(Denied::Lacks(_))));
    for wrong in [only(&["data.everything"]), only(&[])] {
        assert!(
            people()
                .create_key(&vic, &name("wrong"), wrong.as_deref(), None)
                .is_err()
        );
    }
    assert!(
        people().create_key(&vic, &name("ALL"), None, None).is_err(),
        "there is one of that name"
    );
    assert!(people().create_key(&vic, &name("long"), None, Some(0)).is_err());
    assert!(
        people()
            .create_key(&user("nobody"), &name("k"), None, None)
            .is_err()
    );
    house.kernel.advance(2 * 24 * 60 * MINUTE_NS);
    assert!(!house.is_known(&view) && house.is_known(&all));
    assert!(
        people()
            .keys(None)
            .expect("keys")
            .iter()
            .any(|key| key.key == "view" && key.over)
    );
    people().lock_user(&vic).expect("locked");
    assert!(!house.is_known(&all), "a key rests while its user is locked");
    people().unlock_user(&vic).expect("unlocked");
    assert!(house.is_known(&all));
    people().end_key(&vic, &name("all")).expect("ended");
    assert!(!house.is_known(&all) && people().end_key(&vic, &name("all")).is_err());
}

#[test]
fn names_are_somebodys_once() {
    let house = House::new();
    let again = house
        .people()
        .add_user(&user("Vic"), Role::Viewer, &Secret::new(PASSWORD));
    assert!(again.is_err(), "a name that differs in case alone");
    let weak = house
        .people()
        .add_user(&user("tom"), Role::Viewer, &Secret::new("short"));
    assert!(weak.is_err());
    for absent in [
        house.people().set_role(&user("tom"), Role::Viewer).err(),
        house.people().remove_user(&user("tom")).err(),
        house.people().lock_user(&user("tom")).err(),
    ] {
        let said = absent.expect("refused").to_string();
        assert!(said.contains("there is no user tom"), "{said}");
    }
    let users = house.people().users().expect("users");
    assert_eq!(
        users.iter().map(|user| user.user.as_str()).collect::<Vec<_>>(),
        ["ada", "vic"]
    );
}

#[test]
fn a_login_that_cannot_be_audited_is_none() {
    let memory = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    Store::init(&disk, [1; 16], &options()).expect("a store");
    let house = House::on(SimulatedKernel::new(1, 1_795_248_000_000_000_000), disk);
    house.add("vic", Role::Viewer);
    let before = house.token("vic");
    let (kernel, _) = house.end();
    // The log can't be taken up any more: its newest file can't be read.
    let plan = Plan {
        fail_reads: Some(ReadFault {
            path: "000001.jsonl",
            at: 0,
            duration: Duration::ForEver,
        }),
        ..Plan::default()
    };
    let house = House::on(kernel, Arc::new(FaultyDisk::new(memory, plan)));
    assert!(matches!(house.login("vic", PASSWORD), Err(Denied::Failed(_))));
    let tokens = house.people().tokens(None).expect("listed");
    assert_eq!(tokens.len(), 1, "nothing is left of it: {tokens:?}");
    assert!(house.is_known(&before), "who was in stays in: reads go on");
    house.fail("vic", 1);
    house.tally.write(true);
}

#[test]
fn what_is_damaged_is_said_and_lets_nobody_in() {
    let house = House::new();
    let token = house.token("vic");
    house.store.identity().put(USER, "vic", b"{\"v\":1").expect("put");
    assert!(matches!(
        house.door.identify(&token, HERE),
        Err(Denied::Failed(_))
    ));
    assert!(matches!(house.login("vic", PASSWORD), Err(Denied::Failed(_))));
    assert!(house.login("ada", PASSWORD).is_ok());
    let damaged = record::get::<User>(&house.store, USER, "vic")
        .err()
        .expect("damaged")
        .to_string();
    assert!(damaged.contains("user vic"), "{damaged}");
}
