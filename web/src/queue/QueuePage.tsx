export default function QueuePage(_: { id?: string; tab?: string }) {
  return <main id="content" class="content" />;
}
