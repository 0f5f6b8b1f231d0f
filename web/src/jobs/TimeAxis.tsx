// The marks under strips and curves that share a time.

import { hour } from '../format';
import { marks } from './span';

export function TimeAxis(props: { fromMs: number; toMs: number; gutter?: number; most?: number }) {
  const { fromMs, toMs, gutter = 0, most = 8 } = props;
  const length = toMs - fromMs;
  return (
    <div class="time-axis" style={{ marginLeft: `${gutter}px` }} aria-hidden="true">
      {marks(fromMs, toMs, most).map((at) => (
        <span key={at} style={{ left: `${((at - fromMs) / length) * 100}%` }}>
          {hour(at, length)}
        </span>
      ))}
    </div>
  );
}
