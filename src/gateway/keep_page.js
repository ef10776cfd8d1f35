
{
  const { name, page, next, inCookies } = document.currentScript.dataset;
  let kept = inCookies === "true";
  try {
    const fragment = location.hash.slice(1);
    sessionStorage.setItem("sidegate-page", JSON.stringify({ name, page, fragment }));
    kept = true;
  } catch {
    // The browser stores no data for this site.
  }
  if (kept && next) location.replace(next);
}
