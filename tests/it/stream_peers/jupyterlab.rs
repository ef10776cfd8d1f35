//! `JupyterLab`, a workbench whose page connects to its kernels again.

use crate::support::program::record;
use crate::support::webdriver::Chromium;

use super::{jupyter, scene_with, sign_out_in_a_new_tab};

/// The test gets access to the objects of the page, and the page calls no other server.
const SETTINGS: &str = "\
    c.LabApp.expose_app_in_browser = True\n\
    c.LabApp.news_url = None\n\
    c.LabApp.check_for_updates_class = 'jupyterlab.NeverCheckForUpdate'\n";

/// Adds the function `compute` to the page. The result of `compute` is the text of the value.
const COMPUTE: &str = "\
    window.compute = async code => {\
      const future = session.kernel.requestExecute({ code });\
      let value;\
      future.onIOPub = message => {\
        if (message.header.msg_type === 'execute_result') value = message.content.data['text/plain'];\
      };\
      await future.done;\
      return value;\
    };";

/// A promise of the status of a session's kernel connection. The session becomes the current
/// session.
fn adopt(session: &str) -> String {
    format!(
        "Promise.resolve(jupyterapp.serviceManager.{session}).then(async session => {{\
           window.session = session;\
           window.model = session.model;\
           window.statuses = [];\
           session.kernel.statusChanged.connect((_, status) => statuses.push(status));\
           await session.kernel.info;\
           return session.kernel.connectionStatus; }})"
    )
}

#[tokio::test]
async fn jupyterlab_connects_to_its_kernel_again_after_a_sign_in_in_another_tab() {
    let app = jupyter(SETTINGS).await;
    let scene = scene_with(&app, "/jupyter").await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/jupyter/lab").await;
    browser.wait_for_script("window.jupyterapp").await;
    browser.run(COMPUTE).await;
    browser.promise("jupyterapp.restored.then(() => 0)").await;
    let start = "sessions.startNew({ name: 'kept', path: 'kept', type: 'console', \
                 kernel: { name: 'python3' } })";
    browser.promise(&adopt(start)).await;
    assert_eq!(browser.promise("compute('x = 6*7; x')").await, "42");
    let client = browser.client();
    let page = client.window().await.unwrap();
    sign_out_in_a_new_tab(&browser).await;
    let other = client.window().await.unwrap();
    client.switch_to_window(page.clone()).await.unwrap();
    // The page tries to connect, and gets 401. JupyterLab then considers the kernel to be dead.
    browser.wait_for_script("statuses.at(-1) === 'dead'").await;
    let kernels = "fetch('/jupyter/api/kernels').then(answer => answer.status)";
    assert_eq!(browser.promise(kernels).await, 401);
    // Another tab signs in. The page only tries to connect again: the page was not loaded again,
    // and the kernel has kept its memory.
    client.switch_to_window(other).await.unwrap();
    browser.open("http://localhost/").await;
    assert_eq!(browser.text().await, "seen");
    client.switch_to_window(page).await.unwrap();
    let again = adopt("sessions.connectTo({ model })");
    assert_eq!(browser.promise(&again).await, "connected");
    assert_eq!(browser.promise("compute('x')").await, "42");
    record("stream_peers.txt", &["WebSocket", "jupyterlab"]);
}
