// Builds web/ as it is, but for the renderer.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  root: here('../../web'),
  plugins: [
    {
      name: 'deckgl-renderer',
      enforce: 'pre',
      resolveId: (source, importer) =>
        source === './webgl' && importer?.endsWith('fleet/stage.ts') ? here('renderer.ts') : null,
    },
  ],
  resolve: {
    alias: [
      { find: /^(@deck\.gl\/(?:core|layers))$/, replacement: here('node_modules/$1') },
    ],
  },
  build: {
    outDir: here('dist'),
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
  },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
});
