import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** The file that kills Redis comes last. */
class Sequencer extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const killsRedis = (file: TestSpecification): number => Number(file.moduleId.endsWith("failures.test.ts"));
    return (await super.sort(files)).sort((one, other) => killsRedis(one) - killsRedis(other));
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/setup/service.ts",
    // The functions are started once for all files.
    fileParallelism: false,
    sequence: { sequencer: Sequencer },
    hookTimeout: 60_000,
    testTimeout: 30_000,
  },
});
