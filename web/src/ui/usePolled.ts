// A small thing of the API: asked for while one looks, and at once when what it hangs on has changed.

import { useEffect, useState } from 'preact/hooks';

export function usePolled<T>(ask: () => Promise<T>, everyMs: number, again?: unknown): T | null {
  const [found, setFound] = useState<T | null>(null);
  useEffect(() => {
    let here = true;
    const look = (): void => {
      if (document.hidden) return;
      ask().then(
        (now) => here && setFound(now),
        () => undefined, // away, or older than this page: what was known stays
      );
    };
    look();
    const timer = setInterval(look, everyMs);
    return () => {
      here = false;
      clearInterval(timer);
    };
  }, [again]);
  return found;
}
