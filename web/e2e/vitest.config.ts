import { defineConfig } from "vitest/config";

// One file after another: they share this machine's two or four cores with real functions and a browser, and one of
// them measures how long its frames take.
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
