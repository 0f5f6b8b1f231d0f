// Builds the page into the Python package. Every file but index.html has its hash in its name, and
// nothing is inlined: the page runs under `default-src 'self'` without exceptions.
import { defineConfig } from 'vitest/config';

const daemon = process.env['MADANG_URL'] ?? 'http://127.0.0.1:7070';

export default defineConfig({
  build: {
    outDir: '../src/madang/_web',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
  },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  server: { proxy: { '/v1': daemon, '/login': daemon } },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.ts', 'src/**/*.test.tsx'],
    testTimeout: 60_000, // properties draw hundreds of layouts, and CI machines are shared
  },
});
