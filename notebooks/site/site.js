// Code and wide tables scroll sideways; with a tab stop they can be scrolled by keyboard too. Captions get their level.
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("article pre, article div[style*='overflow']").forEach((part) => (part.tabIndex = 0));
  document.querySelectorAll("p.caption[role=heading]").forEach((part) => (part.ariaLevel = "2"));
});
