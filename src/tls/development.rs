//! Certificates for local development.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

use super::Error;
use crate::clock::Timestamp;
use crate::secret::Secret;

/// The lifetime of the certificates. Browsers refuse certificates with a longer lifetime, even from
/// a private authority.
const LIFETIME: Duration = Duration::from_hours(24 * 397);
/// The validity period of a certificate begins this many seconds (one day) before its creation,
/// because the clocks of other machines may be slow.
const BACKDATED: u64 = 24 * 60 * 60;

/// The files that [`development_certificates`] has created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DevelopmentFiles {
    /// The certificate of the authority. A browser or a client has to trust this certificate.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key. Only the owner of the file can read the file.
    pub key: PathBuf,
}

/// Creates a certificate authority and a server certificate that the authority has signed (ECDSA
/// P-256, valid for 397 days). The server certificate is valid for `localhost`, `127.0.0.1`, `::1`
/// and `names`. The function writes the files to the folder `dir`, and creates the folder if the
/// folder is missing.
///
/// The private key of the authority is not stored, so nobody can use the authority to sign another
/// certificate that the browser would trust.
///
/// # Errors
///
/// Returns [`Error::AlreadyExists`] and writes no file if one of the files already exists. Returns
/// [`Error::Generate`] if one of `names` is not a valid DNS name. [`Error::Write`].
pub fn development_certificates(
    dir: &Path,
    names: &[&str],
    now: Timestamp,
) -> Result<DevelopmentFiles, Error> {
    let written = DevelopmentFiles {
        authority: dir.join("authority.pem"),
        certificate: dir.join("localhost.pem"),
        key: dir.join("localhost-key.pem"),
    };
    for path in [&written.authority, &written.certificate, &written.key] {
        // A symbolic link without a target counts as an existing file, because a write would create
        // a file in another folder.
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::AlreadyExists { path: path.clone() });
        }
    }
    let made = generate(names, now).map_err(Error::Generate)?;
    fs::create_dir_all(dir).map_err(|source| Error::Write {
        path: dir.to_owned(),
        source,
    })?;
    write(&written.key, made.key.expose(), 0o600)?;
    write(&written.certificate, &made.certificate, 0o644)?;
    write(&written.authority, &made.authority, 0o644)?;
    Ok(written)
}

struct Generated {
    authority: String,
    certificate: String,
    key: Secret<String>,
}

fn generate(names: &[&str], now: Timestamp) -> Result<Generated, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = common_name("Sidegate development authority");
    // The authority may sign certificates of servers, but no certificates of other authorities.
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_dates(&mut authority, now);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;

    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    all.extend(names.iter().map(|name| (*name).to_owned()));
    let mut leaf = CertificateParams::new(all)?;
    leaf.distinguished_name = common_name("Sidegate development server");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    set_dates(&mut leaf, now);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = leaf.signed_by(&key, &authority)?;
    Ok(Generated {
        authority: authority.pem(),
        certificate: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
    })
}

#[expect(
    clippy::arithmetic_side_effects,
    reason = "dates overflow only some thousand years from now; the library offers no other way"
)]
fn set_dates(params: &mut CertificateParams, now: Timestamp) {
    let start = Duration::from_secs(now.as_secs().saturating_sub(BACKDATED));
    params.not_before = date_time_ymd(1970, 1, 1) + start;
    params.not_after = params.not_before + LIFETIME;
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let failed = |source: std::io::Error| {
        if source.kind() == ErrorKind::AlreadyExists {
            return Error::AlreadyExists {
                path: path.to_owned(),
            };
        }
        Error::Write {
            path: path.to_owned(),
            source,
        }
    };
    // `create_new` fails if another process has created the file after `development_certificates`
    // checked that the file is missing.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
