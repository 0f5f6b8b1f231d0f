// A page whose code comes when it is first opened.

import type { FunctionComponent } from 'preact';
import { useEffect, useState } from 'preact/hooks';

export function lazyPage<P extends object>(
  load: () => Promise<{ default: FunctionComponent<P> }>,
): FunctionComponent<P> {
  let loaded: FunctionComponent<P> | null = null;
  return function LazyPage(props: P) {
    const [, again] = useState(0);
    useEffect(() => {
      if (loaded) return;
      let here = true;
      void load().then((module) => {
        loaded = module.default;
        if (here) again(1);
      });
      return () => {
        here = false;
      };
    }, []);
    const Page = loaded;
    return Page ? <Page {...props} /> : <main id="content" class="content" />;
  };
}
