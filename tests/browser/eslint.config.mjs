// Rules for the script of the page; `make lint` applies them.
import js from "@eslint/js";

// What a browser has, of which the script may use these.
const browser = [
  "AbortController", "Blob", "CSS", "DOMParser", "DecompressionStream", "EventSource", "FormData",
  "IntersectionObserver", "Intl", "Response", "URL", "URLSearchParams", "addEventListener", "atob",
  "console", "document", "fetch", "getComputedStyle", "history", "location", "matchMedia",
  "setInterval", "structuredClone",
];

export default [
  js.configs.recommended,
  {
    files: ["**/*.js"],
    linterOptions: { reportUnusedDisableDirectives: "error" },
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "script",
      globals: Object.fromEntries(browser.map((name) => [name, "readonly"])),
    },
    rules: {
      "consistent-return": "error",
      "curly": ["error", "multi-line"],
      "eqeqeq": "error",
      "max-lines": ["error", 599],
      "max-lines-per-function": ["error", 50],
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "write"].map((property) => ({
          property,
          message: "Text from data must stay text.",
        })),
      ],
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      "strict": ["error", "global"],
    },
  },
];
