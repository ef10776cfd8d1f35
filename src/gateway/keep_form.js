
{
  const { name, form, next } = document.currentScript.dataset;
  let kept = false;
  try {
    sessionStorage.setItem("sidegate-form", JSON.stringify({ name, form }));
    kept = true;
  } catch {
    // The browser stores no data for this site, or the form is too large.
  }
  if (kept && next) location.replace(next);
}
