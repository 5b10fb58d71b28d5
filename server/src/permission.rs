//! What may be done, and who may: the names of permissions, the four roles, and what a role, grants and a key's own limits add
//! up to. Pure.
//!
//! A role counts in the study `default`, which every session without a study of its own is in. In any other study a grant
//! counts, and nothing else: whoever makes a study shuts it to all who are not named. An admin may do everything everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::keeping::DEFAULT_STUDY;

/// Sessions are seen, devices too.
pub(crate) const DATA_VIEW: &str = "data.view";
/// Files are taken away.
pub(crate) const DATA_EXPORT: &str = "data.export";
/// A session is made.
pub(crate) const SESSION_CREATE: &str = "session.create";
/// A session is started, stopped, closed, annotated, compacted; media are handed in.
pub(crate) const SESSION_MANAGE: &str = "session.manage";
/// A device is revoked.
pub(crate) const DEVICE_MANAGE: &str = "device.manage";
/// What goes on in the hub itself is seen.
pub(crate) const HUB_MANAGE: &str = "hub.manage";
/// The audit log is read.
pub(crate) const AUDIT_VIEW: &str = "audit.view";

/// Every permission there is.
pub(crate) const ALL: [&str; 7] = [
    DATA_VIEW,
    DATA_EXPORT,
    SESSION_CREATE,
    SESSION_MANAGE,
    DEVICE_MANAGE,
    HUB_MANAGE,
    AUDIT_VIEW,
];

/// What somebody is to a hub, or to a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, everywhere.
    Admin,
    /// Makes and leads sessions, sees and takes away data.
    Researcher,
    /// Sees data and takes it away.
    Analyst,
    /// Sees data.
    Viewer,
}

impl Role {
    const ALL: [Self; 4] = [Self::Admin, Self::Researcher, Self::Analyst, Self::Viewer];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Researcher => "researcher",
            Self::Analyst => "analyst",
            Self::Viewer => "viewer",
        }
    }

    /// Whether it has a permission.
    pub(crate) fn allows(self, permission: &str) -> bool {
        match self {
            Self::Admin => true,
            Self::Researcher => {
                [SESSION_CREATE, SESSION_MANAGE, DATA_VIEW, DATA_EXPORT].contains(&permission)
            }
            Self::Analyst => [DATA_VIEW, DATA_EXPORT].contains(&permission),
            Self::Viewer => permission == DATA_VIEW,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == name);
        found.ok_or_else(|| "a role is admin, researcher, analyst or viewer".to_owned())
    }
}

/// What somebody may do, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub role: Role,
    /// Roles in studies.
    pub grants: BTreeMap<String, Role>,
    /// Nothing but these, for an API key that was given less than its user has.
    pub only: Option<BTreeSet<String>>,
}

impl Rights {
    /// Those of a role without any grant.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn of(role: Role) -> Self {
        Self {
            role,
            grants: BTreeMap::new(),
            only: None,
        }
    }

    /// What they are in a study; none where they are nobody. Of two roles the one that may more.
    pub(crate) fn role_in(&self, study: &str) -> Option<Role> {
        if self.role == Role::Admin {
            return Some(Role::Admin);
        }
        let granted = self.grants.get(study).copied();
        let general = (study == DEFAULT_STUDY).then_some(self.role);
        // From the one that may most.
        Role::ALL
            .into_iter()
            .find(|role| granted == Some(*role) || general == Some(*role))
    }

    /// Whether they may do something in a study.
    pub(crate) fn allows(&self, permission: &str, study: &str) -> bool {
        self.takes(permission) && self.role_in(study).is_some_and(|role| role.allows(permission))
    }

    /// Whether they may do something in any study at all.
    pub(crate) fn allows_somewhere(&self, permission: &str) -> bool {
        let mut roles = std::iter::once(&self.role).chain(self.grants.values());
        self.takes(permission) && roles.any(|role| role.allows(permission))
    }

    /// What they may do in a study.
    pub(crate) fn permissions_in(&self, study: &str) -> Vec<&'static str> {
        ALL.into_iter()
            .filter(|permission| self.allows(permission, study))
            .collect()
    }

    fn takes(&self, permission: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(permission))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_counts_in_default_and_a_grant_in_its_study() {
        let mut rights = Rights::of(Role::Viewer);
        rights.grants.insert("gait".into(), Role::Researcher);
        assert!(rights.allows(DATA_VIEW, "default") && !rights.allows(DATA_EXPORT, "default"));
        assert!(rights.allows(SESSION_MANAGE, "gait"));
        assert!(
            !rights.allows(DATA_VIEW, "sleep"),
            "a study is shut to who is not named"
        );
        assert!(rights.allows_somewhere(SESSION_CREATE) && !rights.allows_somewhere(DEVICE_MANAGE));
        // The better of two.
        rights.grants.insert("default".into(), Role::Analyst);
        assert_eq!(rights.role_in("default"), Some(Role::Analyst));
        rights.role = Role::Researcher;
        assert_eq!(rights.role_in("default"), Some(Role::Researcher));
        assert!(ALL.iter().all(|permission| {
            Rights::of(Role::Admin).allows(permission, "any")
                && Rights::of(Role::Admin).allows_somewhere(permission)
        }));
    }

    #[test]
    fn a_key_may_no_more_than_its_user_and_what_it_was_given() {
        let mut rights = Rights::of(Role::Analyst);
        rights.only = Some([DATA_VIEW, AUDIT_VIEW].map(str::to_owned).into());
        assert_eq!(rights.permissions_in("default"), [DATA_VIEW]);
        assert!(!rights.allows_somewhere(DATA_EXPORT) && !rights.allows_somewhere(AUDIT_VIEW));
    }

    #[test]
    fn roles_are_known_by_their_names() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
