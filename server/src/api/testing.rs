//! A list of people for tests: names, roles and tokens as they are told.

use std::net::IpAddr;

use marey_engine::Actor;

use super::access::{Access, Denied, Issued, Principal};

/// Who there is: token, name, role. The password is the token.
#[derive(Debug)]
pub(crate) struct Listed(pub Vec<(String, String, String)>);

impl Listed {
    fn find(&self, token: &str) -> Result<Principal, Denied> {
        let found = self.0.iter().find(|known| known.0 == token);
        let found = found.ok_or(Denied::Unknown)?;
        Ok(Principal {
            name: found.1.clone(),
            role: found.2.clone(),
            actor: Actor::User(found.1.clone()),
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
            role: who.role,
            expires: "2026-01-01T00:00:00Z".to_owned(),
        })
    }

    fn logout(&self, token: &str, _: IpAddr) -> Result<(), Denied> {
        self.find(token).map(|_| ())
    }

    fn authorize(
        &self,
        token: &str,
        _: IpAddr,
        permission: &str,
        study: Option<&str>,
    ) -> Result<Principal, Denied> {
        let who = self.find(token)?;
        match self.sees(&who, permission, study.unwrap_or("default")) {
            true => Ok(who),
            false => Err(Denied::Lacks(format!(
                "{permission} is not granted to {}",
                who.role
            ))),
        }
    }

    fn sees(&self, who: &Principal, permission: &str, _: &str) -> bool {
        match who.role.as_str() {
            "admin" => true,
            "researcher" => permission.starts_with("session.") || permission.starts_with("data."),
            "analyst" => permission.starts_with("data."),
            _ => permission == "data.view",
        }
    }
}
