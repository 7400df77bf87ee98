// Typesets the formulas; without scripts they stay LaTeX.
document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll(".formula")) {
    katex.render(formula.textContent, formula, { displayMode: true, throwOnError: true });
  }
});
