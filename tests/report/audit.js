// What a reader sees of a page: the smallest text, the weakest contrast, what is wider than the window. Runs in the page.
function audit() {
  const channels = function (colour) {
    const parts = colour.match(/[\d.]+/g).map(Number);
    return {rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1};
  };
  const luminance = function (rgb) {
    const linear = rgb.map(function (c) { c /= 255; return c <= 0.04045 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4); });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = function (element) {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.alpha > 0.99) { return colour.rgb; }
    }
    return [255, 255, 255];
  };
  let size = [1e9, ""], contrast = [1e9, ""], count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.getClientRects().length) { continue; }
    const style = getComputedStyle(element), drawn = element.ownerSVGElement;
    const scale = drawn ? drawn.getScreenCTM().a : 1;
    const pixels = parseFloat(style.fontSize) * scale;
    const first = luminance(channels(drawn ? style.fill : style.color).rgb), second = luminance(behind(element));
    const ratio = (Math.max(first, second) + 0.05) / (Math.min(first, second) + 0.05);
    count += 1;
    if (pixels < size[0]) { size = [pixels, text]; }
    if (ratio < contrast[0]) { contrast = [ratio, text]; }
  }
  return {
    texts: count, size: size[0], small: size[1].slice(0, 40), contrast: contrast[0], faint: contrast[1].slice(0, 40),
    width: document.documentElement.scrollWidth, inner: window.innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, images: document.images.length,
    broken: Array.from(document.images).filter(function (i) { return !i.complete || i.naturalWidth === 0; }).length,
    loaded: performance.now()
  };
}
window.addEventListener("load", function () { parent.postMessage(JSON.stringify(audit()), "*"); });
