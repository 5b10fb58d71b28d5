//! Studies, which group sessions, and who is let into them.

use std::collections::BTreeMap;

use marey_format::{StudyId, UserId};

use super::record::{self, STUDY, Study, USER, User, VERSION};
use super::view::{self, StudyView};
use super::{People, PeopleError, refused, unknown_study};
use crate::keeping::{DEFAULT_STUDY, study_of};
use crate::permission::Role;
use crate::text;

impl People<'_> {
    /// Makes a study. Sessions that name it already are in it, and seen by its people alone.
    pub(crate) fn create_study(&self, study: &StudyId, description: &str) -> Result<StudyView, PeopleError> {
        text::check("the description", description).map_err(PeopleError::Refused)?;
        if study.as_str().eq_ignore_ascii_case(DEFAULT_STUDY) {
            return refused("the study default is there always: it has the sessions that were given none");
        }
        let made = Study {
            v: VERSION,
            description: description.to_owned(),
            created_utc_ns: self.now().utc_ns,
        };
        self.store.identity().transact(|entries| {
            let studies = record::list_in::<Study>(entries, STUDY)?;
            if studies.len() >= STUDIES_MAX {
                return refused(format!("{STUDIES_MAX} studies are the most that a hub has"));
            }
            if let Some((known, _)) = studies
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(study.as_str()))
            {
                return refused(format!("there is a study {known} already"));
            }
            record::put(entries, STUDY, study.as_str(), &made)
        })?;
        self.show_study(study)
    }

    /// Every study, by name.
    pub(crate) fn studies(&self) -> Result<Vec<StudyView>, PeopleError> {
        let users = record::list::<User>(self.store, USER)?;
        let mut sessions: BTreeMap<String, usize> = BTreeMap::new();
        for session in self.store.sessions() {
            *sessions.entry(study_of(&session)).or_default() += 1;
        }
        let studies = record::list::<Study>(self.store, STUDY)?.into_iter();
        let views = studies.map(|(name, study)| {
            let let_in = users
                .iter()
                .filter_map(|(user, found)| Some((user.clone(), *found.grants.get(&name)?)));
            let sessions = sessions.get(&name).copied().unwrap_or_default();
            view::study(&name, &study, let_in.collect(), sessions)
        });
        Ok(views.collect())
    }

    /// Lets a user into a study, as something.
    pub(crate) fn grant(&self, study: &StudyId, user: &UserId, role: Role) -> Result<StudyView, PeopleError> {
        if role == Role::Admin {
            return refused(
                "an admin is one of the whole hub (`marey user role`); in a study somebody is researcher, analyst or viewer",
            );
        }
        self.change(user, |entries, found| {
            if entries.get(STUDY, study.as_str())?.is_none() {
                return Err(unknown_study(study));
            }
            found.grants.insert(study.as_str().to_owned(), role);
            Ok(())
        })?;
        self.show_study(study)
    }

    /// Whether there is a study of this name: a session that names another would be seen by nobody but admins, and a key or a rule
    /// of another would cover nothing, for a typing error.
    ///
    /// # Errors
    /// There is none, or it is no name.
    pub(crate) fn must_have_study(&self, name: &str) -> Result<(), PeopleError> {
        if name == DEFAULT_STUDY {
            return Ok(());
        }
        let study = StudyId::new(name).map_err(|error| PeopleError::Refused(error.to_string()))?;
        self.show_study(&study).map(drop)
    }

    /// Lets a user out of a study.
    pub(crate) fn ungrant(&self, study: &StudyId, user: &UserId) -> Result<StudyView, PeopleError> {
        self.change(user, |_, found| match found.grants.remove(study.as_str()) {
            Some(_) => Ok(()),
            None => refused(format!(
                "{user} is not let into study {study}; `marey study list` shows who is"
            )),
        })?;
        self.show_study(study)
    }

    fn show_study(&self, study: &StudyId) -> Result<StudyView, PeopleError> {
        let mut studies = self.studies()?.into_iter();
        studies
            .find(|known| known.study == study.as_str())
            .ok_or_else(|| unknown_study(study))
    }
}

const STUDIES_MAX: usize = 10_000;
