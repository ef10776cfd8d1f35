
{
  const { name, path } = document.currentScript.dataset;
  let kept;
  try {
    kept = JSON.parse(sessionStorage.getItem("sidegate-form"));
  } catch {
    // The browser stores no data for this site, or another page has changed the data.
  }
  if (kept?.name === name) {
    sessionStorage.removeItem("sidegate-form");
    const form = document.createElement("form");
    form.method = "post";
    form.action = path;
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = "show";
    input.value = kept.form;
    form.append(input);
    document.body.append(form);
    form.submit();
  }
}
