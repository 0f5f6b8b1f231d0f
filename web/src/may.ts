// What the one who looks may do. The daemon decides; this only says so before somebody tries.

import { me } from './api/store';
import type { JobView } from './api/types';
import { t } from './i18n';

/** Why this person may not act on the job, in words; '' where nothing is in the way. */
export function barred(job: Pick<JobView, 'owner'>): string {
  const who = me.value;
  if (!who || who.role === 'owner') return '';
  if (who.role !== 'member') return t('may.look', { role: t(`role.${who.role}`) });
  return who.user === job.owner ? '' : t('may.others', { owner: job.owner });
}

/** False for those who only look. */
export const maySubmit = (): boolean =>
  !me.value || me.value.role === 'owner' || me.value.role === 'member';
