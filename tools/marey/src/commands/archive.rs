//! `marey archive SESSION --to PATH`: a session that is sealed, as one tar, zip or folder that needs no Marey, encrypted to its
//! study's key.

use super::backup::keep;
use super::device::other_answer;
use crate::output::{Failure, Output, Result};
use crate::written;
use marey_format::SessionId;
use marey_server::backup::{ArchiveForm, ArchiveSpec, Archived};
use marey_server::control::{KeepRequest, Kept};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    session: SessionId,
    /// The file or folder to make; it must not be there. It is a zip or a tar as its name ends (also before .age), a folder where
    /// that has no ending.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// What to make, whatever the name.
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// An age recipient, where the session's study has no key of its own; may be given more than once.
    #[arg(long, value_name = "age1...")]
    encrypt_to: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    Tar,
    Zip,
    Folder,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let form = match arguments.form {
        Some(Form::Tar) => ArchiveForm::Tar,
        Some(Form::Zip) => ArchiveForm::Zip,
        Some(Form::Folder) => ArchiveForm::Folder,
        None => by_name(&arguments.to)?,
    };
    written::outside("--to", &arguments.to)?;
    let spec = ArchiveSpec {
        session: arguments.session,
        to: std::path::absolute(&arguments.to)?,
        form,
        encrypt_to: arguments.encrypt_to,
    };
    match keep(dir, KeepRequest::Archive(spec), output)? {
        Kept::Archived(archived) => output.result(&archived, told),
        _ => Err(other_answer()),
    }
}

fn by_name(to: &Path) -> Result<ArchiveForm> {
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|is| is == ending);
    let inner = match is(to, "age") {
        true => to.with_extension(""),
        false => to.to_owned(),
    };
    match inner.extension() {
        _ if is(&inner, "tar") => Ok(ArchiveForm::Tar),
        _ if is(&inner, "zip") => Ok(ArchiveForm::Zip),
        None if inner == to => Ok(ArchiveForm::Folder),
        _ => Err(Failure::Usage(format!(
            "--to {} ends in neither .tar nor .zip; name it so, or say --form tar, zip or folder",
            to.display()
        ))),
    }
}

fn told(archived: &Archived) -> String {
    let Archived {
        session,
        files,
        bytes,
        form,
        ..
    } = archived;
    let to = archived.to.display();
    let open = match form {
        ArchiveForm::Tar => format!("tar xf {to}"),
        ArchiveForm::Zip => format!("unzip {to} -d {session}"),
        ArchiveForm::Folder => String::new(),
    };
    let how = match (form, archived.encrypted_to.is_empty()) {
        (ArchiveForm::Folder, _) => format!("in the clear; {to}/README.md says how to read and check it"),
        (_, true) => format!("in the clear; open it with `{open}`"),
        (form, false) => {
            let whom = archived.encrypted_to.join(", ");
            let then = match form {
                ArchiveForm::Tar => "| tar x".to_owned(),
                _ => format!("> {session}-opened.zip"),
            };
            format!("encrypted to {whom}; open it with `age -d -i KEYFILE {to} {then}`")
        }
    };
    let blake3 = archived.blake3.as_ref();
    let blake3 = blake3.map_or_else(String::new, |blake3| format!("\nBLAKE3 of the file {blake3}"));
    format!(
        "session {session} is in {to}: {files} files, {bytes} bytes, {how}{blake3}\nSHA-256 of its SHA256SUMS {}",
        archived.sums_sha256
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_what_it_is() {
        let form = |to: &str| by_name(Path::new(to)).ok();
        assert_eq!(form("a/walk.tar"), Some(ArchiveForm::Tar));
        assert_eq!(form("walk.tar.age"), Some(ArchiveForm::Tar));
        assert_eq!(form("walk.zip"), Some(ArchiveForm::Zip));
        assert_eq!(form("walk.zip.age"), Some(ArchiveForm::Zip));
        assert_eq!(form("a.zip/walk"), Some(ArchiveForm::Folder));
        for other in ["walk.7z", "walk.age", "walk.tgz", "walk.2026.age"] {
            assert_eq!(form(other), None, "{other}");
        }
    }
}
