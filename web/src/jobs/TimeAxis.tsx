// The marks under strips and curves that share a time: as many as fit.

import { useEffect, useRef, useState } from 'preact/hooks';

import { hour } from '../format';
import { marks } from './span';

const MARK_PX = 64; // a mark and the room round it
const EDGE = 0.02; // of the length: so near an end a mark stands inside, not across it

export function TimeAxis(props: { fromMs: number; toMs: number; gutter?: number; most?: number }) {
  const { fromMs, toMs, gutter = 0, most = 8 } = props;
  const host = useRef<HTMLDivElement>(null);
  const [fit, setFit] = useState(most);
  useEffect(() => {
    const watch = new ResizeObserver(() =>
      setFit(Math.max(2, Math.floor((host.current?.clientWidth ?? 0) / MARK_PX))),
    );
    watch.observe(host.current!);
    return () => watch.disconnect();
  }, []);
  const length = toMs - fromMs;
  const edge = (share: number): string => (share < EDGE ? 'first' : share > 1 - EDGE ? 'last' : '');
  return (
    <div ref={host} class="time-axis" style={{ marginLeft: `${gutter}px` }} aria-hidden="true">
      {marks(fromMs, toMs, Math.min(most, fit)).map((at) => {
        const share = (at - fromMs) / length;
        return (
          <span key={at} class={edge(share)} style={{ left: `${share * 100}%` }}>
            {hour(at, length)}
          </span>
        );
      })}
    </div>
  );
}
