use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use figment::providers::{Format as _, Toml};

use super::*;

/// A folder with a file of this mode.
fn folder_with(name: &str, mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join(name), mode);
    write(&folder.path().join("sidegate.toml"), 0o644);
    folder
}

fn write(path: &Path, mode: u32) {
    fs::write(path, "x").unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Returns the warnings, without the name of the folder.
fn warnings_of(folder: &Path, settings: &str, environment: &Environment) -> Vec<String> {
    let here = folder.display().to_string();
    let settings = Figment::from(Toml::string(&settings.replace('@', &here)));
    let found = warnings(&folder.join("sidegate.toml"), &settings, environment);
    let short = |text: String| {
        text.replace(&format!("{here}/"), "")
            .replace(&here, "FOLDER")
    };
    found.into_iter().map(short).collect()
}

const KEY: &str = "[server]\nkey_file = '@/file'\n";
const CA: &str = "[providers.main]\nca_file = '@/file'\n";

#[test]
fn t_14_a_secret_that_others_can_read_causes_a_warning_with_its_key_and_mode() {
    let nobody = Environment::default();
    for (text, key) in [
        (KEY, "server.key_file"),
        (
            "[login]\nstate_key_file = '@/file'\n",
            "login.state_key_file",
        ),
        (
            "[providers.main]\nclient_secret_file = '@/file'\n",
            "providers.main.client_secret_file",
        ),
        (
            "[providers.main.client_assertion]\nprivate_key_file = '@/file'\n",
            "providers.main.client_assertion.private_key_file",
        ),
        ("[signing]\nkey_files = ['@/file']\n", "signing.key_files.0"),
        (
            "[session.store.redis]\npassword_file = '@/file'\n",
            "session.store.redis.password_file",
        ),
    ] {
        let folder = folder_with("file", 0o644);
        let said = warnings_of(folder.path(), text, &nobody);
        let expected = format!(
            "{key}: file has the mode 0644, so every user of this machine can read it; run `chmod o-r \
             file`"
        );
        assert_eq!(said, [expected], "{text}");
        for mode in [0o400, 0o440, 0o600, 0o640] {
            let folder = folder_with("file", mode);
            assert_eq!(
                warnings_of(folder.path(), text, &nobody),
                [""; 0],
                "{mode:o}"
            );
        }
    }
}

#[test]
fn t_15_a_file_or_folder_that_others_can_change_causes_a_warning() {
    let nobody = Environment::default();
    let folder = folder_with("file", 0o646);
    let said = warnings_of(folder.path(), CA, &nobody);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with(
            "providers.main.ca_file: file has the mode 0646, so every user of this machine can change it"
        ),
        "{said:?}"
    );
    // Everybody may read a certificate and the settings.
    let folder = folder_with("file", 0o644);
    assert_eq!(warnings_of(folder.path(), CA, &nobody), [""; 0]);
    let settings = folder.path().join("sidegate.toml");
    fs::set_permissions(&settings, Permissions::from_mode(0o666)).unwrap();
    let said = warnings_of(folder.path(), "", &nobody);
    assert!(
        said.len() == 1 && said[0].starts_with("settings file: sidegate.toml has the mode 0666"),
        "{said:?}"
    );
    // In a folder with the sticky bit, others cannot replace the files.
    let folder = folder_with("file", 0o600);
    let open = |mode| {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        warnings_of(
            folder.path(),
            &format!("{KEY}[session.store.disk]\nfile = '@/sessions.redb'\n"),
            &nobody,
        )
    };
    assert_eq!(open(0o1777), [""; 0]);
    let said = open(0o777);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("FOLDER has the mode 0777, so every user of this machine can replace"),
        "{said:?}"
    );
}

/// A group with another number than the owner. Only root can give a file to such a group.
#[test]
fn t_15_a_group_that_is_not_the_group_of_the_owner_alone_may_not_change_a_file() {
    let folder = folder_with("file", 0o660);
    let nobody = Environment::default();
    let own = fs::metadata(folder.path().join("file")).unwrap();
    let (uid, gid) = {
        use std::os::unix::fs::MetadataExt as _;
        (own.uid(), own.gid())
    };
    let said = warnings_of(folder.path(), KEY, &nobody);
    assert_eq!(said.is_empty(), uid == gid, "{said:?}");
    if std::os::unix::fs::chown(folder.path().join("file"), None, Some(uid + 1)).is_ok() {
        let said = warnings_of(folder.path(), KEY, &nobody);
        assert!(
            said.len() == 1 && said[0].contains("mode 0660, so its whole group can change it"),
            "{said:?}"
        );
    }
}

#[test]
fn secrets_that_a_container_runtime_has_mounted_cause_no_warning() {
    let nobody = Environment::default();
    // The links that Kubernetes makes: the file, and a folder that Kubernetes replaces.
    let folder = folder_with("other", 0o600);
    let real = folder.path().join("..2026_11_30_10_00_00.1234");
    fs::create_dir(&real).unwrap();
    write(&real.join("file"), 0o644);
    symlink("..2026_11_30_10_00_00.1234", folder.path().join("..data")).unwrap();
    symlink("..data/file", folder.path().join("file")).unwrap();
    assert_eq!(warnings_of(folder.path(), KEY, &nobody), [""; 0]);
    // A link to an ordinary file does not hide its mode.
    write(&folder.path().join("other"), 0o644);
    let plain = KEY.replace("/file", "/link");
    symlink("other", folder.path().join("link")).unwrap();
    assert_eq!(warnings_of(folder.path(), &plain, &nobody).len(), 1);
    // In a pod, a folder can belong to everybody, and the containers of the pod are all users.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(warnings_of(folder.path(), &plain, &nobody).len(), 2);
    let pod = Environment::from_iter([(IN_POD, "10.96.0.1")]);
    assert_eq!(warnings_of(folder.path(), &plain, &pod), [""; 0]);
}

/// A file or a socket of Sidegate itself has the right permissions, but others can replace it.
#[test]
fn t_15_a_folder_in_which_others_can_replace_a_file_of_sidegate_causes_a_warning() {
    let nobody = Environment::default();
    for (text, key) in [
        (
            "[session]\nstore = { disk.file = '@/here/file' }",
            "session.store.disk.file",
        ),
        (
            "[operations]\nadmin_socket_file = '@/here/file'",
            "operations.admin_socket_file",
        ),
        ("[server]\nspill_dir = '@/here'", "server.spill_dir"),
        ("[server]\nspill_dir = '@/here/folder'", "server.spill_dir"),
        (
            "[session.store.redis]\nurls = ['unix://@/here/file']",
            "session.store.redis.urls.0",
        ),
    ] {
        let folder = folder_with("file", 0o644);
        let here = folder.path().join("here");
        fs::create_dir_all(here.join("folder")).unwrap();
        let open = |mode| {
            fs::set_permissions(&here, Permissions::from_mode(mode)).unwrap();
            warnings_of(folder.path(), text, &nobody)
        };
        assert_eq!(open(0o755), [""; 0], "{text}");
        assert_eq!(open(0o1777), [""; 0], "{text}");
        let expected = format!(
            "{key}: here has the mode 0777, so every user of this machine can replace its files; run \
             `chmod o-w here`"
        );
        assert_eq!(open(0o777), [expected], "{text}");
    }
    let folder = folder_with("file", 0o644);
    let tcp = "[session.store.redis]\nurls = ['redis://@/file']";
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(warnings_of(folder.path(), tcp, &nobody), [""; 0]);
}

/// Only the whole key shows what a path is.
#[test]
fn a_key_with_the_name_of_a_file_in_another_table_causes_no_warning() {
    let folder = folder_with("file", 0o666);
    let text = "[upstreams.app]\nfile = '@/file'\nkey_file = '@/file'";
    let said = warnings_of(folder.path(), text, &Environment::default());
    assert_eq!(said, [""; 0]);
}
