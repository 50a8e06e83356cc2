import { defineConfig } from "vitest/config";

export default defineConfig({
  server: { port: 5173 },
  test: {
    include: ["test/**/*.test.{ts,tsx}"],
    environment: "jsdom",
    // Starts the real functions, with a model server that does what a message says.
    globalSetup: "../../test/setup/service.ts",
    // The setup may build the functions first.
    hookTimeout: 60_000,
    testTimeout: 30_000,
  },
});
