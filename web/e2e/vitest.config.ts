import { defineConfig } from "vitest/config";

// One file after another: they share this machine's two or four cores with real functions and a browser, and the page
// has a time within which it must be painted.
export default defineConfig({
  cacheDir: "../node_modules/.vite-e2e",
  test: {
    root: import.meta.dirname,
    include: ["*.test.ts", "../page/test/*.test.ts"],
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
