
{
  const { name, path } = document.currentScript.dataset;
  let kept;
  try {
    kept = JSON.parse(sessionStorage.getItem("sidegate-page"));
  } catch {
    // The browser stores no data for this site, or another page has changed the data.
  }
  if (kept?.name === name) {
    sessionStorage.removeItem("sidegate-page");
    const form = document.createElement("form");
    form.method = "post";
    form.action = kept.fragment ? `${path}#${kept.fragment}` : path;
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = "page";
    input.value = kept.page;
    form.append(input);
    document.body.append(form);
    form.submit();
  } else {
    location.replace(path);
  }
}
