//! The PHP function of `docs/sessions.md` with which an app calls the webhook.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::replaced;
use crate::back_channel::is_signed_in;
use crate::support::program::installed;
use crate::support::scene::{ORIGIN, Scene};
use crate::webhook::{KEY, scene};

const PAGE: &str = include_str!("../../../docs/sessions.md");

/// The methods of Laravel's HTTP client that the function uses. The address of the gateway replaces
/// the host of the URL, because the host of the tests has no address.
const HTTP_CLIENT: &str = r#"
class Http
{
    private array $fields = [];
    private string $body = '';
    private string $status = '';

    public static function withHeaders(array $fields): self
    {
        $request = new self();
        $request->fields = $fields;
        return $request;
    }

    public function withBody(string $body, string $type): self
    {
        $this->body = $body;
        $this->fields['Content-Type'] = $type;
        return $this;
    }

    public function post(string $url): self
    {
        $this->fields['Host'] = parse_url($url, PHP_URL_HOST);
        $lines = array_map(fn ($name) => "$name: {$this->fields[$name]}", array_keys($this->fields));
        $options = ['method' => 'POST', 'header' => $lines, 'content' => $this->body, 'ignore_errors' => true];
        $address = 'http://' . getenv('GATEWAY') . parse_url($url, PHP_URL_PATH);
        file_get_contents($address, false, stream_context_create(['http' => $options]));
        $this->status = $http_response_header[0];
        return $this;
    }

    public function ok(): bool
    {
        return str_contains($this->status, ' 200 ');
    }
}
"#;

/// Calls the function of the page with these arguments in PHP. Returns the output.
async fn call(scene: &Scene, key_file: &Path, named: &str) -> String {
    let (_, section) = PAGE.split_once("\n## Webhook\n").unwrap();
    let (_, function) = section.split_once("```php\n").unwrap();
    let (function, _) = function.split_once("```").unwrap();
    let function = replaced(
        function,
        &[
            (
                "/run/secrets/sidegate/webhook_key",
                key_file.to_str().unwrap(),
            ),
            ("https://app.example.com", ORIGIN),
        ],
    );
    let code = format!("{HTTP_CLIENT}\n{function}\nvar_dump(end_sidegate_sessions({named}));");
    let output = Command::new(installed(Path::new("/usr/bin/php")))
        .args(["-d", "display_errors=stderr", "-r", &code])
        .env("GATEWAY", scene.gateway.address().to_string())
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_php_function_of_the_documentation_ends_the_sessions_of_a_user() {
    let scene = scene().await;
    let folder = tempfile::tempdir().unwrap();
    let [right, wrong] = ["right", "wrong"].map(|name| folder.path().join(name));
    fs::write(&right, format!("{KEY}\n")).unwrap();
    fs::write(&wrong, KEY.to_uppercase()).unwrap();
    let browser = scene.signed_in("alice").await;
    let bystander = scene.signed_in("bob").await;
    let said = call(&scene, &wrong, "['subject' => 'alice']").await;
    assert_eq!(said, "bool(false)\n");
    assert!(is_signed_in(&browser).await);
    let said = call(&scene, &right, "['subject' => 'alice']").await;
    assert_eq!(said, "bool(true)\n");
    assert!(!is_signed_in(&browser).await);
    assert!(is_signed_in(&bystander).await);
}
