//! A list of people for tests: names, roles and tokens as they are told.

use std::net::IpAddr;
use std::sync::Arc;

use marey_engine::Actor;

use super::access::{Access, Denied, Issued, Principal, Rights, Secret};
use crate::permission::Role;

/// Who there is: token, name, role. The password is the token.
#[derive(Debug)]
pub(crate) struct Listed(pub Vec<(String, String, String)>);

impl Listed {
    fn find(&self, token: &str) -> Result<Principal, Denied> {
        let found = self.0.iter().find(|known| known.0 == token);
        let found = found.ok_or(Denied::Unknown)?;
        Ok(Principal {
            name: found.1.clone(),
            rights: Arc::new(Rights::of(found.2.parse().unwrap_or(Role::Viewer))),
            actor: Actor::User(found.1.clone()),
            expires: None,
        })
    }
}

impl Access for Listed {
    fn login(&self, user: &str, password: &str, _: IpAddr) -> Result<Issued, Denied> {
        let who = self.find(password).map_err(|_| Denied::Login)?;
        if who.name != user {
            return Err(Denied::Login);
        }
        Ok(Issued {
            token: password.to_owned(),
            user: who.name,
            role: who.rights.role.to_string(),
            expires: "2026-01-01T00:00:00Z".to_owned(),
        })
    }

    fn logout(&self, token: &str, _: IpAddr) -> Result<(), Denied> {
        self.find(token).map(|_| ())
    }

    fn set_password(&self, token: &str, _: &str, _: &Secret, _: IpAddr) -> Result<(), Denied> {
        self.find(token)?;
        Err(Denied::Refused("these passwords are what they are".to_owned()))
    }

    fn identify(&self, token: &str, _: IpAddr) -> Result<Principal, Denied> {
        self.find(token)
    }

    fn authorize(
        &self,
        token: &str,
        _: IpAddr,
        permission: &'static str,
        study: Option<&str>,
    ) -> Result<Principal, Denied> {
        let who = self.find(token)?;
        match self.sees(&who, permission, study.unwrap_or("default")) {
            true => Ok(who),
            false => Err(Denied::Lacks(format!(
                "{permission} is not granted to {}",
                who.rights.role
            ))),
        }
    }

    /// In every study: what these tests are about is not who is let into which.
    fn sees(&self, who: &Principal, permission: &str, _: &str) -> bool {
        who.rights.role.allows(permission)
    }

    fn denied(&self, _: &Principal, _: &'static str, _: Option<&str>) {}
}
